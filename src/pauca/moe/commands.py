"""The verbs of `pauca moe`: parse, call the library, show."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from tyro.conf import Positional, arg

from pauca import moe
from pauca.errors import InputError
from pauca.moe import plots
from pauca.moe.data import BpeTokenizer
from pauca.moe.ops.hub import lay_out_kernel
from pauca.moe.plan import Assumptions, PlanTask, find_plans, model_shape, parse_memory
from pauca.moe.plan.gpus import gpu_of, rates_on
from pauca.moe.plan.tables import plan_lines
from pauca.moe.reports import training_report
from pauca.moe.training.settings import ModelOptions, TrainSettings, settings_from
from pauca.moe.training.trainer import check_fit
from pauca.runs import (
    Run,
    check_picture,
    fit_threads,
    from_yaml,
    resolve_device,
    save_figure,
    seed_all,
    write_text,
)
from pauca.runs.loop import check_minutes, opened_run, reported
from pauca.runs.processes import count_ranks, first_then_all, joined, own_rank
from pauca.typed import is_typed, require_once

_VARIANTS = {  # the named recipes, and what else is kept of z
    "bf16": moe.RECIPES["bf16"],
    "fp8": moe.RECIPES["fp8"],
    "fp8, z in fp8": replace(moe.RECIPES["fp8"], kept_z="fp8"),
    "fp4, z in bf16": replace(moe.RECIPES["fp4"], kept_z="bf16"),
    "fp4, z in fp8": replace(moe.RECIPES["fp4"], kept_z="fp8"),
    "fp4": moe.RECIPES["fp4"],
    "paper": moe.Recipe.paper(),
}
_RESTORE = "restore the tokenizer.json that the training wrote there, or remove it where it wrote none (bytes)"
_MODES: tuple[moe.Recompute, ...] = ("none", "activation", "experts")


def kept(
    hidden: int = 7168,
    width: int = 2048,
    experts: int = 8,
    top_k: int = 8,
    tokens: int = 4096,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Say what the experts of one layer keep for backward, for each recipe and recompute mode.

    The defaults are DeepSeek-V3's layer with 8 of its experts on a GPU.

    Args:
        hidden: channels of a token (of the residual stream).
        width: channels inside one expert.
        experts: routed experts that lie on one GPU.
        top_k: experts that each token is routed to.
        tokens: tokens that these experts serve in one forward pass.
        as_json: print JSON for programs, in bytes.
    """
    sizes = {"tokens": tokens, "top_k": top_k, "experts": experts, "hidden": hidden, "width": width}
    found = {
        name: {mode: moe.kept_bytes(recipe, mode, **sizes) for mode in _MODES} for name, recipe in _VARIANTS.items()
    }
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print(f"KiB kept per token (MiB for {tokens:,} tokens), by what is recomputed")
    print(f"{'recipe':<16}" + "".join(f"{mode:>20}" for mode in _MODES))
    for name, by_mode in found.items():
        cells = (f"{kept / tokens / 1024:.1f} ({kept / 2**20:,.0f})" for kept in by_mode.values())
        print(f"{name:<16}" + "".join(f"{cell:>20}" for cell in cells))


def plan(
    model: str,
    gpus: int = 8,
    gpu: Literal["h100", "h200", "b200"] = "h100",
    memory: str | None = None,
    tokens: int = 4096,
    context: int | None = None,
    ep: int | None = None,
    pp: int | None = None,
    dp: int | None = None,
    projections: Literal["bf16", "recipe"] = "bf16",
    like: str | None = None,
    assumptions: Assumptions = Assumptions(),  # noqa: B008 - frozen
    out: Path | None = None,
    force: bool = False,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> None:
    """Say what fits: the fastest way to train a model on given GPUs, for each recipe, with the reasons.

    Args:
        model: a name (deepseek-v3, deepseek-v2-lite, 16b, qwen3-30b, qwen3-235b, mixtral, mixtral-8x22b, or a size of
            `pauca moe train`), the config.json of a Hugging Face model, the config.yaml of a training's run, or a YAML
            file with the fields of a ModelShape.
        gpus: number of GPUs to train on.
        gpu: their kind, which gives memory and rates: h100 (measured), h200 or b200 (assumed, by the makers' figures).
        memory: memory of one GPU, as in 80GB (10^9 bytes) or 79.6GiB (2^30 bytes); if not given, that of its kind.
        tokens: tokens of one micro-batch on each GPU.
        context: length of a sequence in tokens, which the time of attention depends on: whole sequences make a
            micro-batch. If not given, the most up to 4096 that the model and, as a whole number, the micro-batch hold.
        ep: GPUs that share the experts of a layer (expert parallelism); if not given, all that fit are tried.
        pp: stages of the pipeline (pipeline parallelism); if not given, all that fit are tried.
        dp: GPUs of one stage, each with tokens of its own (data parallelism): all GPUs over pp; if not given, all that
            fit are tried.
        projections: numerics of attention's projections: BF16, or the recipe's own, kept in its format.
        like: read a config.json of a family that is not known as one of this, such as qwen3_moe.
        assumptions: what the plan takes for granted.
        out: file to draw the plans into, as a chart (.png, .pdf or .svg).
        force: replace the chart if it is there already.
        as_json: print JSON for programs, in bytes and seconds.
    """
    if out is not None:
        check_picture(out, force)
    kind = gpu_of(gpu)
    given = replace(assumptions, rates=rates_on(kind, assumptions.rates))
    size = kind.memory if memory is None else parse_memory(memory)
    sizes = (gpus, size, tokens, context, ep, pp, dp)
    task = PlanTask(model_shape(model, like), *sizes, given, projections, kind.recipes)
    plans = find_plans(task)
    if as_json:
        print(json.dumps({recipe: found.to_dict() for recipe, found in plans.items()}, indent=2))
    else:
        print("\n".join(plan_lines(task, plans)))
        if kind.reason:
            print(f"{gpu.upper()}: bf16 alone; {kind.reason}")
    if out is not None:
        save_figure(plots.plan_figure(task, plans), out, force)


def train(
    data: tuple[str, ...] = (),
    validation: tuple[str, ...] = (),
    vocabulary: int | None = None,
    validation_share: float = 0.05,
    out: Path | None = None,
    config: Path | None = None,
    model: ModelOptions = ModelOptions(),  # noqa: B008 - frozen
    training: moe.TrainConfig = moe.TrainConfig(),  # noqa: B008 - frozen
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
    minutes: float | None = None,
    timeout: float = 30.0,
) -> None:
    """Train a mixture-of-experts language model on text.

    Writes config.yaml, metrics.jsonl, checkpoints, checkpoints/best.safetensors and report.html to the output folder,
    and the tokens beside it. On several GPUs: `torchrun --nproc-per-node N -m pauca.cli moe train ...`.

    Args:
        data: text files (.txt, .md, .py, also .xz or .gz), folders of such, or one folder of tokens from an earlier
            run. If not given, the Python standard library's own sources.
        validation: text files or folders to validate on, instead of a share of the data.
        vocabulary: number of different tokens: 256 for bytes, more for byte pairs learned from the data. If not given,
            the size's own.
        validation_share: share of the documents that is held out to validate on where there is no --validation.
        out: folder to write the run to. If not given, runs/moe/SIZE-RECIPE.
        config: a config.yaml, or the folder of a run, whose training to repeat; all settings are then taken from it.
        model: what to train.
        training: how to train.
        resume: go on with the run in the output folder, from its latest checkpoint and with its own settings. Other
            options than those that decide what is learned (--no-graph, --compile, --ep, --device, --recompute and the
            like) may be given anew.
        force: replace a run that is already in the output folder.
        quiet: print only errors.
        minutes: end the training when this time is up, with a checkpoint that --resume goes on from; otherwise only
            its steps end it.
        timeout: with torchrun, minutes that one rank may keep the others waiting (for tokens, too) before all stop
            and say so.
    """
    require_once("data", "validation")
    check_minutes(minutes)
    out = out or Path("runs/moe") / f"{model.size}-{model.recipe}"
    text = (data, validation, validation_share, vocabulary)
    stored, settings = _settings(out, config, resume, text, model, training)
    with joined(settings.train.device, timeout):
        _train(stored, settings, out, resume, force, quiet, minutes)


def _train(
    stored: TrainSettings,
    settings: TrainSettings,
    out: Path,
    resume: bool,
    force: bool,
    quiet: bool,
    minutes: float | None,
) -> None:
    tokens = first_then_all(lambda: moe.prepare_tokens(settings.data, out.parent / "tokens"))
    _compare_vocabulary(settings.data, tokens, quiet)
    stored, settings = (
        replace(one, model=replace(one.model, vocabulary=tokens.tokenizer.vocabulary)) for one in (stored, settings)
    )
    check_fit(settings.model, tokens, settings.train, count_ranks())
    seed_all(settings.train.seed)
    network = moe.MoELM(settings.model)
    fit_threads(settings.model.flops_per_token * settings.train.batch_size * settings.model.context)

    # Only now, so that settings that are refused neither leave a run behind nor, with --force, cost an earlier one.
    with opened_run(out, stored, force, resume, lambda run: _remember_text(run, tokens, resume)) as run:
        with reported(lambda why: training_report(run, settings, None, why).save(out / "report.html")):
            result = moe.train(network, settings.train, tokens, run, resume, quiet, minutes)
        if own_rank() > 0:
            return
        training_report(run, settings, result).save(out / "report.html")
    if not quiet:
        loss = result.validation_loss
        reached = f" (validation {loss:.3f} nats per token)" if loss is not None else ""
        if not result.is_finished:
            print(f"the {minutes:g} minutes are up before the last step: go on with --resume")
        print(f"best after step {result.best_step}{reached}: {run.checkpoints / 'best.safetensors'}")
        print(f"report: {out / 'report.html'}")


def sample(
    run: Positional[Annotated[Path, arg(metavar="RUN")]],
    prompt: str = "",
    count: int | None = None,
    temperature: float = 0.8,
    top_k: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> None:
    """Continue a prompt with a trained model.

    Args:
        run: folder that a training wrote.
        prompt: text to go on from. If not given, the start of a document.
        count: number of tokens to add. If not given, as many as the model's context holds.
        temperature: how much chance has a say: below 1 likely tokens become likelier, 0 always takes the likeliest.
        top_k: choose among this many likeliest tokens only. If not given, among all.
        seed: seed of the random choices; the same seed gives the same text.
        device: where to compute: auto (the GPU if there is one), cpu, cuda or cuda:N.
    """
    path = run / "checkpoints" / "best.safetensors"
    if not path.exists():
        raise InputError(f"{run}: holds no trained model ({path.relative_to(run)}); give the folder of a training")
    place = resolve_device(device)
    network, tokenizer = moe.load_model(path).to(place).eval(), moe.load_tokenizer(run)
    if tokenizer.vocabulary > network.config.vocabulary:
        raise InputError(f"{run}: the tokenizer knows tokens that its model does not; {_RESTORE}")
    try:
        prompt.encode()
    except UnicodeEncodeError as error:  # bytes of the command line that are no UTF-8
        raise InputError(f"the prompt is not UTF-8 from character {error.start + 1} on; convert it") from error
    start = tokenizer.encode([prompt])[0].tolist() or [tokenizer.end]
    room = network.config.context - len(start)
    tokens = network.generate(
        torch.tensor([start], device=place),
        max(1, room) if count is None else count,
        temperature,
        top_k,
        torch.Generator(place).manual_seed(seed),
    )
    new = tokens[0, len(start) :].tolist()
    if max(new, default=0) >= tokenizer.vocabulary:
        raise InputError(f"{run}: the model knows tokens that its tokenizer does not; {_RESTORE}")
    print(prompt + tokenizer.decode(new[: new.index(tokenizer.end)] if tokenizer.end in new else new))


def kernel(out: Path = Path("pauca-moe"), force: bool = False, quiet: bool = False) -> None:
    """Write the layer's operations as a kernel of Hugging Face's hub, which its library `kernels` loads without pauca.

    The folder holds build.toml, the source, and a variant for GPUs and one for CPUs: to load from there, or to upload.

    Args:
        out: folder to write to.
        force: replace a kernel that was written there before.
        quiet: print only errors.
    """
    lay_out_kernel(out, force)
    if not quiet:
        print(f"kernel: {out}, to be loaded by kernels.get_local_kernel(Path({str(out)!r}))")


COMMANDS = {"kept": kept, "plan": plan, "train": train, "sample": sample, "kernel": kernel}


def _settings(
    out: Path,
    config: Path | None,
    resume: bool,
    text: tuple[tuple[str, ...], tuple[str, ...], float, int | None],
    model: ModelOptions,
    training: moe.TrainConfig,
) -> tuple[TrainSettings, TrainSettings]:
    """The settings of a new run, of a config.yaml, or of the run to go on with: as they are stored, and as they hold.

    The two differ in what a run may go on with otherwise than it began.
    """
    given, usual = (
        settings_from(text, model, training),
        settings_from(((), (), 0.05, None), ModelOptions(), moe.TrainConfig()),
    )
    if config is not None and config.is_dir():  # of a run
        config = Run(config).config_path
    path = Run(out).config_path if resume else config
    if path is None:
        fresh = replace(given, train=given.train.suited_to(given.model))
        return fresh, fresh
    if resume and not path.exists():
        raise InputError(f"{out}: holds no run to go on with; start one without --resume, or name its folder by --out")
    stored = from_yaml(TrainSettings, path)
    settings = stored.going_on_as(given, usual) if resume else stored
    settings.obeyed(given, usual, path)
    return stored, settings


def _compare_vocabulary(asked: moe.DataConfig, tokens: moe.TokenData, quiet: bool) -> None:
    """Say where a text has come to fewer tokens; refuse what says otherwise than tokens that were made before."""
    found = tokens.tokenizer.vocabulary
    if tokens.folder in map(Path, asked.sources):
        for option, other in (("vocabulary", asked.vocabulary != found), ("validation-share", True)):
            if other and is_typed(option.replace("-", "_")):
                raise InputError(
                    f"{tokens.folder}: its tokens are made, of a vocabulary of {found}, and divided; leave --{option} "
                    "out, or give the text that they were made of"
                )
    elif found < asked.vocabulary and own_rank() == 0 and not quiet:
        print(f"the text gives {found:,} different tokens, where {asked.vocabulary:,} were asked for")


def _remember_text(run: Run, tokens: moe.TokenData, resume: bool) -> None:
    """Keep beside the model what its tokens mean and where they came from; refuse to go on with other text."""
    path = run.path / "sources.json"
    if resume and path.exists():
        tokens.check_sources(json.loads(path.read_text(encoding="utf-8")))
    write_text(path, json.dumps(tokens.sources, indent=1), force=True)
    if isinstance(tokens.tokenizer, BpeTokenizer):
        write_text(run.path / "tokenizer.json", tokens.tokenizer.to_json(), force=True)
