"""The verb `train`: what a training is asked for becomes a plan that its images allow, and is then run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from tyro.conf import Positional, arg

from pauca import fewshot
from pauca.errors import InputError
from pauca.fewshot.data.sources import open_training
from pauca.fewshot.own_images import spoken_warnings
from pauca.fewshot.random_state import own_random_state
from pauca.fewshot.reports import training_report
from pauca.fewshot.training.settings import DEAR, ProtocolName, RecipeName, TrainSettings, check_asked, settings_from
from pauca.runs import Run, fit_threads, from_yaml, resolve_device
from pauca.runs.loop import check_minutes, opened_run, reported
from pauca.runs.processes import joined, own_rank


def train(
    data: Positional[Annotated[str, arg(metavar="DATA")]] = "glyphs",
    out: Path | None = None,
    protocol: ProtocolName | None = None,
    recipe: RecipeName = "episodes",
    config: Path | None = None,
    model: fewshot.ModelConfig = fewshot.ModelConfig(),  # noqa: B008 - frozen
    training: fewshot.TrainConfig = fewshot.TrainConfig(),  # noqa: B008 - frozen
    strong: fewshot.StrongConfig = fewshot.StrongConfig(),  # noqa: B008 - frozen
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
    minutes: float | None = None,
    timeout: float = 30.0,
) -> None:
    """Meta-train a model and keep the best on validation.

    Writes config.yaml, metrics.jsonl, checkpoints/best.safetensors and report.html to the output folder. On several
    GPUs: `torchrun --nproc-per-node N -m pauca.cli fewshot train ...`.

    Args:
        data: a prepared data set (`pauca fewshot data prepare`), a folder or zip archive with a folder for each class
            (below train and val, if there is validation), or `glyphs`, characters drawn on the spot.
        out: folder to write the run to; if not given, runs/fewshot/ and the data's name.
        protocol: start from the paper's settings for this data set; options that are given win over them.
        recipe: episodes trains through a base learner, episode after episode, as the paper does. strong tells all base
            classes apart at once, in many views, then teaches itself: the most accurate network, on one GPU. Options
            that are given win over both.
        config: repeat the training of a config.yaml; options that say otherwise are refused.
        model: what to train.
        training: how to train; for strong, steps are those of each generation, and episodes serve validation alone.
        strong: what the recipe strong adds.
        resume: go on with the run in the output folder, with its own settings.
        force: replace a run that is there already.
        quiet: print only errors.
        minutes: end the training when this time is up, with a checkpoint that --resume goes on from; otherwise only
            its steps end it.
        timeout: with torchrun, minutes that one rank may keep the others waiting before all stop and say so.
    """
    settings = settings_from(data, protocol, recipe, model, training, strong)
    if resume:
        out = out or Path("runs/fewshot") / Path(data).stem
        config = Run(out).config_path
        if not config.exists():
            raise InputError(
                f"{out}: holds no run to go on with; start one without --resume, or name its folder by --out"
            )
    if config:
        given, settings = settings, from_yaml(TrainSettings, config)
        settings.obeyed(given, config)
    out = out or Path("runs/fewshot") / Path(settings.data).stem
    with joined(settings.train.device, timeout):
        given = settings.model
        with spoken_warnings(own_rank() == 0):
            told = given.image_size, given.channels, given.fitting, quiet or own_rank() > 0
            images = open_training(settings.data, *told)
        planned = PlannedTraining.of(settings, given if config else model, *images)
        planned.run(*images, out, resume, force, quiet, minutes)


@dataclass(frozen=True, eq=False)
class PlannedTraining:
    """A training that can be: its settings, complete, and the network as it begins."""

    settings: TrainSettings
    network: fewshot.MCRNet
    left_out: float = 1.0  # what the latent space would cost that `auto` has left out

    @classmethod
    def of(
        cls,
        settings: TrainSettings,
        asked: fewshot.ModelConfig,
        images: fewshot.ImageSet,
        validation: fewshot.ImageSet | None,
    ) -> PlannedTraining:
        """The training of images of this number and size; what they show may still be unknown.

        Raises:
            ConfigError, InputError, DeviceError: it cannot be; nothing was written.
        """
        check_asked(asked, images)
        with own_random_state():
            told, settings, left_out = settings, settings.fitted_to(images), 1.0
            if told.model.latent.mode == "auto" and settings.model.latent.mode == "none":
                left_out = settings.cost_of_latent_space()
            torch.manual_seed(settings.train.seed)
            network = fewshot.MCRNet(settings.model)
        settings.check_images(images, validation)
        return cls(settings, network, left_out)

    def run(
        self,
        images: fewshot.ImageSet,
        validation: fewshot.ImageSet | None,
        out: Path,
        resume: bool = False,
        force: bool = False,
        quiet: bool = False,
        minutes: float | None = None,
    ) -> None:
        """Train, with a run folder `out` and its report; `train` says what the arguments are."""
        settings, network = self.settings, self.network
        fit_threads(settings.operations_per_step(network))
        # Only now, so that settings that are refused neither leave a run behind nor, with --force, cost an earlier one.
        check_minutes(minutes)
        with opened_run(out, settings, force, resume) as run:
            if own_rank() == 0 and not quiet:
                print(f"train on {images}; augmentation: {settings.train.augmentation.describe()}")
                self._warn_of_cost()
            where = images, validation, run, resume, quiet, minutes
            words = run, settings.data, settings.train.steps, network
            with reported(lambda why: training_report(*words, None, why).save(out / "report.html")):
                if settings.recipe == "strong":
                    result = fewshot.train_strong(network, settings.train, settings.strong, *where)
                else:
                    result = fewshot.train(network, settings.train, *where)
            if own_rank() > 0:
                return
            training_report(*words, result).save(out / "report.html")
        if not quiet:
            reached = f", validation {result.validation.summary()}" if result.validation else ""
            if not result.is_finished:
                print(f"the {minutes:g} minutes are up before the last step: go on with --resume")
            print(f"best after step {result.best_step}{reached}: {run.checkpoints / 'best.safetensors'}")
            print(f"report: {out / 'report.html'}")

    def _warn_of_cost(self) -> None:
        on_cpu = resolve_device(self.settings.train.device).type == "cpu"
        has_one = self.settings.model.latent.mode != "none"
        if on_cpu and has_one and (dear := self.settings.cost_of_latent_space()) > DEAR:
            print(f"the latent space makes a step {dear:.0f} times as dear on this CPU; --mode none leaves it out")
        if self.left_out > DEAR:
            cost = f"{self.left_out:.0f} times as dear on this CPU"
            print(f"without a latent space, which would make a step {cost}; --mode variational has one")


def plan_training(
    data: str,
    model: fewshot.ModelConfig,
    training: fewshot.TrainConfig,
    images: fewshot.ImageSet,
    validation: fewshot.ImageSet | None,
) -> PlannedTraining:
    """A training by episodes of images that are still to be made, dearly perhaps, and stored as `data`.

    Raises:
        ConfigError, InputError, DeviceError: `train` would refuse images of this number and size.
    """
    return PlannedTraining.of(TrainSettings(data, model, training), model, images, validation)
