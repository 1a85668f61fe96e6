"""Does a deep model with a tied embedding learn? First steps of training, with the embedding scaled and not.

    python benchmarks/moe_convergence.py --prepare                     # the pack of tokens, on a CPU
    python benchmarks/moe_embedding.py [--size large] [--rates 6e-4,1.5e-3,3e-3] [--steps 110] [--batch 32]
    python benchmarks/moe_embedding.py --small --rates 1.5e-3 --steps 200 --batch 16      # a stand-in, on a CPU

For each learning rate and both kinds of model, in BF16, with the same first weights and text: how alike the final
states of two tokens of a text are at the start (mean cosine), the training loss over the last fifteen steps, and the
validation loss after them. The learning rate rises for 76 steps, as in a run of 100 million tokens by
moe_convergence.py. The stand-in has as many layers as `large`, of 128 channels, 8 experts and windows of 128 tokens.
"""

import argparse
import platform
from dataclasses import replace

import torch
from torch.nn.functional import normalize

import moe_convergence
from moe_shapes import show
from pauca.moe import LM_SIZES, LMConfig, MoELM, Recipe

LAST = 15  # steps of training whose loss is averaged
TOKENS = 512  # whose states are compared
SMALL = LMConfig(layers=16, hidden=128, heads=4, head_dim=32, experts=8, top_k=2, expert_width=64, context=128)


def likeness(model: MoELM, tokens: torch.Tensor) -> float:
    """Mean cosine of the final states of two tokens."""
    with torch.no_grad():
        states = normalize(model.hidden_states(tokens[None])[0].float(), dim=1)
    count = len(states)
    return ((states @ states.T).sum().item() - count) / (count * (count - 1))


def measure(model: LMConfig, rate: float, tokens: dict[str, torch.Tensor], options: argparse.Namespace) -> list[str]:
    """A row of the table: the first steps of one model."""
    LM_SIZES["tried"] = model  # by whose name moe_convergence takes it
    settings = argparse.Namespace(
        size="tried", steps=1526, batch=options.batch, context=model.context, learning_rate=rate
    )
    settings.compile = settings.graph = tokens["train"].device.type == "cuda"
    training = moe_convergence.Training(Recipe.bf16(), 0, tokens, settings)
    training.model.eval()
    alike = likeness(training.model, tokens["validation"][:TOKENS][: settings.context].long())
    training.model.train()
    training.run_until(options.steps)
    loss = training.losses[options.steps - LAST : options.steps].mean().item()
    scaled = "scaled" if model.scaled_embedding else "as it is"
    return [scaled, f"{rate:g}", f"{alike:.3f}", f"{loss:.3f}", f"{training.validate(64):.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=[name for name, size in LM_SIZES.items() if size.tied], default="large")
    parser.add_argument("--small", action="store_true", help="a stand-in of 128 channels in place of a size")
    parser.add_argument("--rates", default="6e-4,1.5e-3,3e-3", help="learning rates")
    parser.add_argument("--steps", type=int, default=110)
    parser.add_argument("--batch", type=int, default=32, help="windows a step")
    options = parser.parse_args()
    if options.steps < LAST:
        parser.error(f"give at least {LAST} steps")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokens = moe_convergence.load(device)
    base = SMALL if options.small else LM_SIZES[options.size]
    rows = []
    for rate in map(float, options.rates.split(",")):
        for scaled in (False, True):
            rows.append(measure(replace(base, scaled_embedding=scaled), rate, tokens, options))
            print(*rows[-1], flush=True)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"\n{name}, torch {torch.__version__}")
    title = f"{'stand-in' if options.small else options.size}, {options.steps} steps of {options.batch} windows"
    show(title, ("embedding", "rate", "likeness", f"loss of the last {LAST} steps", "validation"), rows)


if __name__ == "__main__":
    main()
