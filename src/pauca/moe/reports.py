"""What the commands write for people about a training."""

from pauca.moe import plots
from pauca.moe.training.health import collapse
from pauca.moe.training.loop import TrainResult
from pauca.moe.training.settings import TrainSettings
from pauca.runs import Report, Run


def training_report(run: Run, settings: TrainSettings, result: TrainResult | None, why: str = "") -> Report:
    """The report of a training; without a result, of one that stopped, and why."""
    model, lines = settings.model, list(run.metrics())
    text = ", ".join(settings.data.sources) or "the Python standard library's sources"
    report = Report("Training of a mixture-of-experts language model", f"{text}; {settings.train.steps} steps")
    if result is None:
        report.text(f"The training stopped before its end: {why}. The curves end there.")
    steps = [line for line in lines if "tokens_per_second" in line]
    rates = sorted(line["tokens_per_second"] for line in steps)
    best = result.validation_loss if result is not None else None
    report.table(
        ["recipe", "parameters", "active", "best step", "validation loss", "tokens/s, median", "memory / MiB"],
        [
            [
                model.recipe.precision,
                model.parameters,
                model.active_parameters,
                result.best_step if result is not None else "",
                round(best, 4) if best is not None else "",
                round(rates[len(rates) // 2]) if rates else "",
                round(max(line["memory_bytes"] for line in steps) / 2**20) if steps else "",
            ]
        ],
        "Loss in nats per token. Memory: the most that was allocated on the GPU, or resident on a CPU.",
    )
    report.figure(plots.loss_curves({model.recipe.precision: lines}), "Cross entropy in training and on validation.")
    report.figure(plots.gradient_curve(lines), "Gradient before clipping, and the learning rate.")
    report.heading("Load of the experts")
    report.text("Each layer in one step, from the first (dark) to the last (light): 1 is a perfect balance in both.")
    warning = collapse(lines, model.experts, model.top_k)
    if warning:
        report.text(f"Beware: {warning}.")
    report.figure(plots.load_curves(lines), "The busiest expert, and the entropy of the load.")
    health = plots.health_curves(lines)
    if health is not None:
        report.heading("What the formats lose")
        report.text("Shares of the elements that are not zero, for each layer, measured on one batch.")
        report.figure(health, "Elements that became zero, were saturated, or lost bits under a shared scale.")
    return report
