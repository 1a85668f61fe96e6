"""One step of training a mixture-of-experts language model, and everything that such a step depends on.

All randomness is a function of (seed, step, pass): the batches, and what stochastic rounding draws. So a resumed run
repeats bit for bit with nothing but weights, moments and the step in its checkpoint, and several ranks that share
the passes of a step draw what one process would.

Under torchrun the model is sharded over the ranks by FSDP2 (`fully_shard`), each of which takes its share of the
passes of every step.
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from pauca.errors import ConfigError, DeviceError
from pauca.moe.data.token_files import TokenData
from pauca.moe.layer.moe import frozen_weights, moe_layers
from pauca.moe.models.lm import LMConfig, LMLosses, MoELM
from pauca.moe.parallel.experts import ParallelExperts
from pauca.moe.parallel.optimizer_state import load_optimizer_state, optimizer_state
from pauca.moe.training.config import TrainConfig
from pauca.moe.training.diagnosis import diagnose, largest_gradient
from pauca.moe.training.fsdp import clip, divide, divide_experts, parameter_groups
from pauca.moe.training.graph import Batch, GraphedStep
from pauca.moe.training.health import quantization_health, router_load
from pauca.moe.training.muon import Muon, parts_of
from pauca.runs import resolve_device, seed_of
from pauca.runs.divergence import STEPS_OF_A_RISE, Diverged, Rise
from pauca.runs.processes import first_line, join_processes

Found = TypeVar("Found")
BOUNDED_RANKS = 2
"""How many ranks at most may divide experts for every token to travel to all of them, which then need not ask how many
come: `xl` on two H200 takes 346 ms a step instead of 425, and 293 recorded. The more ranks, the fewer of them a token
visits."""


@dataclass(frozen=True)
class TrainStep:
    """What one step of training came to, averaged over its passes and ranks."""

    loss: float  # what was minimized
    cross_entropy: float  # nats per token
    balance: float  # the balancing loss; 1 when all experts are equally busy
    gradient_norm: float  # before clipping


class Trainer:
    """The state of a training: model, optimizer, step.

    Args:
        model: trained in place; moved to the device, and sharded where there are several ranks.
        data: text to train on.
        config: how to train.
    """

    def __init__(self, model: MoELM, data: TokenData, config: TrainConfig) -> None:
        self.rank, self.ranks = join_processes(config.device)
        check_fit(model.config, data, config, self.ranks)
        self.device = resolve_device(config.device)
        self.config = config = config.suited_to(model.config)
        self.data = data
        self.model = model.to(self.device)
        if config.compile:
            for block in model.blocks:
                block.compile()
        if self.ranks > 1:
            if config.shard:
                divide(model, self.device, config.ep, config.gather)
            else:
                divide_experts(model, self.device, config.ep)
            for bank in model.modules():
                if isinstance(bank, ParallelExperts):
                    bank.bounded = config.ep <= BOUNDED_RANKS
        self.optimizer = _optimizer(model, config)
        self._graphed = self._new_graph()
        self.steps_done = 0
        self.rise = Rise(config.spike)
        self.seconds = 0.0  # spent in `step`
        self.loads: dict[str, Tensor] = {}  # of each layer's experts in the latest step
        self._sequences = _sequences_per_pass(config, self.ranks)

    def step(self) -> TrainStep:
        """One step of the optimizer.

        Raises:
            Diverged: the loss or a gradient is not finite, or the loss leaps up; the message says where it comes
                from. The weights are still those from before the step.
            DeviceError: the GPU's memory does not suffice.
        """
        try:
            return self._step()
        except torch.OutOfMemoryError as error:
            raise self._lack_of_memory(error, is_beside=False) from error

    def _step(self) -> TrainStep:
        started = time.perf_counter()
        self.model.train()
        self._set_learning_rate(self.config.learning_rate_at(self.steps_done))
        numbers = self._compute()
        # The only time that the host waits for the device: before the optimizer changes weights, so that a step that
        # went wrong can be looked into and undone. A queue that runs empty once a step costs far less than a step.
        found = TrainStep(*numbers.tolist())
        if not all(map(math.isfinite, asdict(found).values())):
            raise Diverged(self._not_finite(found))
        if self.rise.is_leap(found.cross_entropy):
            raise Diverged(self._leap())
        (self._update if self._graphed is None else self._graphed.update)()
        self.steps_done += 1
        self.seconds += time.perf_counter() - started
        return found

    def _compute(self) -> Float[Tensor, "4"]:
        """The gradients of the next step; returns a `TrainStep`'s numbers, on the device."""
        batches = [self._batch(number) for number in range(self.config.passes)]
        if self._graphed is not None:
            return self._graphed.compute(batches)
        self.optimizer.zero_grad(set_to_none=True)
        return self._gradients(batches)

    def load_metrics(self) -> dict[str, float]:
        """How busy the experts were in the latest step, over all ranks."""
        loads = {name: router_load(copies.cpu()) for name, copies in self.loads.items()}
        metrics = {f"load_imbalance/{name}": load.imbalance for name, load in loads.items()}
        return metrics | {f"load_entropy/{name}": load.entropy for name, load in loads.items()}

    @property
    def not_recorded(self) -> str:
        """Why steps that were to be recorded could not be; nothing where they are, or were not to be."""
        return self._graphed.refused if self._graphed is not None else ""

    def health(self) -> dict[str, float]:
        """What the number formats of each layer lose in the next step's first pass, as metrics; changes nothing."""
        found = self._beside(self._health)
        # Those of a recording are its memory: a step that is replayed writes them anew.
        if self._graphed is None or not self._graphed.is_recorded:
            self.optimizer.zero_grad(set_to_none=True)
        return {f"{measure}/{name}": share for measure, layers in found.items() for name, share in layers.items()}

    def _health(self) -> dict[str, dict[str, float]]:
        self.model.eval()
        try:
            with torch.compiler.set_stance("force_eager"):  # compiled layers do not call hooks
                return quantization_health(self.model, lambda: self._pass(0, self._batch(0)).total.backward())
        finally:
            for layer in moe_layers(self.model).values():  # a graph that was made on another stream than a step's
                layer.auxiliary_loss = None

    def validate(self) -> float | None:
        """Mean cross entropy, in nats per token, of the validation text; None where there is none.

        Of the same windows, whatever the number of ranks and passes: every rank computes all of them.
        """
        return self._beside(self._validate)

    @torch.no_grad()
    def _validate(self) -> float | None:
        if self.data.validation is None:
            return None
        self.model.eval()
        torch.manual_seed(seed_of(self.config.seed, 2))  # for stochastic rounding
        context = self.model.config.context
        batches = self.config.validation_batches * self.config.batch_size // self._sequences
        total = torch.zeros((), device=self.device)
        sequences = 0
        for tokens, targets in self.data.validation.even_batches(batches, self._sequences, context):
            losses = self._losses(tokens.to(self.device), targets.to(self.device))
            total += losses.cross_entropy * len(tokens)
            sequences += len(tokens)
        if self.ranks > 1:  # a last bit that differs between GPUs would be the best model on some of them alone
            dist.broadcast(total, 0)
        return float(total) / sequences

    def state(self) -> dict[str, Any]:
        """Everything that decides how training goes on; tensors are this rank's parts."""
        optimizer = optimizer_state(self.model, self.optimizer)
        # As without a graph, so that a run goes on with or without one.
        groups = [group | {"lr": float(group["lr"]), "capturable": False} for group in optimizer["param_groups"]]
        return {
            "model": self.model.state_dict(),
            "optimizer": optimizer | {"param_groups": groups},
            "rise": self.rise.state(),
            "step": self.steps_done,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.model.load_state_dict(state["model"])
        load_optimizer_state(self.model, self.optimizer, state["optimizer"])
        self._graphed = self._new_graph()  # one from before would read the optimizer's former state
        self.rise.load_state(state["rise"])
        self.steps_done = int(state["step"])

    def weights(self) -> dict[str, Tensor]:
        """All weights, whole, on the CPU; of several ranks, in the first."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return cast(dict[str, Tensor], self._beside(lambda: get_model_state_dict(self.model, options=options)))

    def forget_recording(self) -> None:
        """Give back what a recorded step holds: its memory, and exchanges between ranks.

        `torch.distributed.destroy_process_group` waits for as long as a CUDA graph holds an exchange of NCCL's, so call
        this first; a step that follows makes another recording.
        """
        if self._graphed is not None:
            self._graphed.forget()

    @property
    def tokens_per_step(self) -> int:
        """Tokens that all ranks together learn from in one step."""
        return self.config.batch_size * self.model.config.context

    def _beside(self, work: Callable[[], Found]) -> Found:
        """Work between steps, which a recording, that keeps a step's memory to itself, may leave too little for."""
        is_beside = self._graphed is not None and self._graphed.is_recorded
        try:
            return work()
        except torch.OutOfMemoryError as error:
            if not is_beside or self.ranks > 1:  # others would not repeat it
                raise self._lack_of_memory(error, is_beside) from error
        assert self._graphed is not None
        self._graphed.forget()  # not within `except`, where the error holds on to what the work had made
        try:
            return work()
        except torch.OutOfMemoryError as error:
            raise self._lack_of_memory(error, False) from error

    def _lack_of_memory(self, error: torch.OutOfMemoryError, is_beside: bool) -> DeviceError:
        said = ". ".join(first_line(error).split(". ")[:2]).rstrip(".")
        if is_beside:
            remedy = (
                "the recorded step keeps its memory to itself: go on with --resume --no-graph (in Python resume=True "
                "and TrainConfig(graph=False))"
            )
        else:
            remedy = (
                "go on with --resume --recompute experts --recompute-attention (in Python resume=True and "
                "LMConfig(recompute=Recomputation(attention=True, experts='experts'))), or on more GPUs; or start anew "
                "with more --passes, which share the batch, or a smaller --batch-size"
            )
        return DeviceError(f"step {self.steps_done + 1}: memory is lacking ({said}); {remedy}")

    def _set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            if self._graphed is None or not self._graphed.records:
                group["lr"] = rate
                continue
            if not isinstance(group["lr"], Tensor):  # a graph reads it anew each time
                group |= {"lr": torch.zeros((), device=self.device), "capturable": True}
            group["lr"].fill_(rate)

    def _new_graph(self) -> GraphedStep | None:
        """Where nothing forbids it: codes rounded at random, which would repeat, or sizes that the GPU must tell."""
        if not self.config.graph or self.device.type != "cuda" or self.model.config.recipe.stochastic_rounding:
            return None
        if self.config.ep > BOUNDED_RANKS:
            return None
        return GraphedStep(self.model, self._gradients, self._update)

    def _gradients(self, batches: Sequence[Batch]) -> Float[Tensor, "4"]:
        """Compute and clip the gradients; returns a `TrainStep`'s numbers, on the device."""
        passes = self.config.passes
        # Where FSDP gathers weights anew for each pass, quantized ones cannot be shared: `frozen_weights` leaves those
        # out. In a graph the first pass quantizes, in each replay anew.
        frozen = frozen_weights(self.model, self.config.compile) if passes > 1 else nullcontext()
        losses = []
        with frozen:
            for number, batch in enumerate(batches):
                loss = self._pass(number, batch)
                (loss.total / passes).backward()
                losses.append(loss)
        norm = clip(self.model, self.config.clip, self.ranks > 1 and not self.config.shard)
        parts = [torch.stack([loss.total, loss.cross_entropy, loss.balance]).detach() for loss in losses]
        means = torch.stack(parts).float().mean(0)
        if self.ranks > 1:
            dist.all_reduce(means)
            means /= self.ranks
        return torch.cat([means, norm.reshape(1).to(means)])

    def _pass(self, number: int, batch: Batch) -> LMLosses:
        """Forward on the batch of one of this rank's passes of the next step."""
        if self._graphed is None:  # whose recipes draw nothing
            number += self.rank * self.config.passes
            torch.manual_seed(seed_of(self.config.seed, 1, self.steps_done, number))
        return self._losses(*batch)

    def _losses(self, tokens: Int64[Tensor, "b time"], targets: Int64[Tensor, "b time"]) -> LMLosses:
        if not self.config.document_mask:
            return self.model.loss(tokens, targets)
        # The token that ends a document begins the next one, as it does for `pauca moe sample` without a prompt.
        documents = (tokens == self.data.tokenizer.end).cumsum(1)
        return self.model.loss(tokens, targets, documents=documents)

    def _batch(self, number: int) -> Batch:
        """The batch of one of this rank's passes of the next step, on the device."""
        number += self.rank * self.config.passes
        first = self.steps_done * self.config.batch_size + number * self._sequences
        context = self.model.config.context
        parts = self.data.train.batch(self.config.seed, first, self._sequences, context)
        if self.device.type == "cpu":
            return parts
        tokens, targets = (part.contiguous().pin_memory().to(self.device, non_blocking=True) for part in parts)
        return tokens, targets

    def _update(self) -> None:
        self.optimizer.step()
        self._balance()

    def _balance(self) -> None:
        """Move the routers' biases by their loads over all ranks, and remember those."""
        routers = {name: layer.router for name, layer in moe_layers(self.model).items()}
        loads = [router.load for router in routers.values()]
        if self.ranks > 1:
            sums = torch.cat(loads)
            dist.all_reduce(sums)
            for load, total in zip(loads, sums.split([len(load) for load in loads]), strict=True):
                load.copy_(total)
        for name, router in routers.items():
            self.loads[name] = router.load.clone()
            router.update_bias()

    def _not_finite(self, found: TrainStep) -> str:
        self.model.eval()  # routers do not count these tokens

        def forward() -> None:
            for number in range(self.config.passes):
                self._pass(number, self._batch(number))

        with torch.compiler.set_stance("force_eager"):
            where = diagnose(self.model, forward)
        return (
            f"step {self.steps_done + 1}: loss {found.loss:.4g}, gradient norm {found.gradient_norm:.4g}. First not "
            f"finite: {where}. Lower the learning rate or clip, in a new run"
        )

    def _leap(self) -> str:
        return (
            f"step {self.steps_done + 1}: the loss leapt from {self.rise.lowest:.3f} to {self.rise.mean:.3f} nats "
            f"(means of {STEPS_OF_A_RISE} steps); {largest_gradient(self.model)}. Lower the learning rate or clip "
            "in a new run"
        )


def check_fit(model: LMConfig, data: TokenData, config: TrainConfig, ranks: int = 1) -> None:
    """Raise before anything is written what a `Trainer` would raise for text that does not fit the model.

    Raises:
        ConfigError: the text has more different tokens than the model, or the work cannot be shared evenly, or
            weights are to travel in FP8 that products do not take so.
        InputError: the text is too short for one context.
        DeviceError: a GPU is asked for and there is none.
    """
    recipe = model.recipe
    if config.gather == "fp8" and (recipe.precision == "bf16" or recipe.rotate):
        name = "a recipe that rotates them" if recipe.rotate else "the bf16 recipe"
        raise ConfigError(f"--gather fp8 sends weights as products in FP8 take them, unlike {name}: use --gather bf16")
    if data.tokenizer.vocabulary > model.vocabulary:
        raise ConfigError(
            f"{data.folder}: the text has {data.tokenizer.vocabulary} different tokens, the model only "
            f"{model.vocabulary}; raise the model's vocabulary"
        )
    for part in (data.train, data.validation):
        if part is not None:
            part.check_context(model.context)
    if ranks % config.ep or model.experts % config.ep:
        raise ConfigError(
            f"ep {config.ep} must divide both the {ranks} ranks (torchrun --nproc-per-node) and the "
            f"{model.experts} experts"
        )
    _sequences_per_pass(config, ranks)
    resolve_device(config.device)


def _optimizer(model: MoELM, config: TrainConfig) -> torch.optim.AdamW:
    parts = parts_of(model) if config.optimizer == "muon" else {}
    kind = Muon if parts else torch.optim.AdamW
    groups = parameter_groups(model, config.weight_decay, parts)
    return kind(groups, lr=config.learning_rate_at(0), betas=(config.beta1, config.beta2), fused=True)


def _sequences_per_pass(config: TrainConfig, ranks: int) -> int:
    sequences, remainder = divmod(config.batch_size, ranks * config.passes)
    if remainder or not sequences:
        raise ConfigError(
            f"batch_size {config.batch_size} cannot be shared evenly by {ranks} ranks with {config.passes} "
            "passes each; choose numbers that divide"
        )
    return sequences
