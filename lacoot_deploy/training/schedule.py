"""The course of a run: epochs alone here, rounds of them with changes between in `methods.rounds`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from lacoot_deploy.training.checkpoint import Checkpoint
from lacoot_deploy.training.methods.base import Method
from lacoot_deploy.training.session import Session, Start
from lacoot_deploy.training.weights import restore_weights


class Schedule(ABC):
    """What happens from the first epoch of a run to its last, with a session to do it.

    Attributes:
        session: Builds, trains and saves.
        method: How is trained.
    """

    def __init__(self, session: Session, method: Method[Any]) -> None:
        self.session, self.method = session, method

    @abstractmethod
    def begin(self, recorded: Checkpoint | None, start: Start | None) -> None:
        """Make the first network ready, or the one that was recorded.

        Raises:
            UsageError: It is nothing for the method.
        """

    @abstractmethod
    def train(self) -> None:
        """Do what is left."""

    @property
    @abstractmethod
    def kept(self) -> str:
        """How far the run is, in words."""


class Epochs(Schedule):
    """One network, trained for the epochs of the recipe."""

    def begin(self, recorded: Checkpoint | None, start: Start | None) -> None:
        """Examine the network and make it ready."""
        session, optimizer = self.session, None
        if recorded is not None:
            self.method.recall(recorded.header.method)
        model = session.first_network(recorded, start)
        self.method.examine(model, session.data.example(), session.around)
        if recorded is not None:
            restore_weights(model, recorded.weights)
            optimizer = recorded.optimizer
        session.prepare(model, self.method, session.recipe, optimizer)
        session.open(recorded, start)
        if recorded is not None:
            session.progress.note(f"Resumed after epoch {session.completed} of {session.recipe.epochs}.")

    def train(self) -> None:
        """Run the epochs that are left."""
        while self.session.completed < self.session.recipe.epochs:
            self.session.run_epoch(self.session.completed, self.session.recipe.epochs)
        self.session.trainer.learner.companion.end()

    @property
    def kept(self) -> str:
        """Epochs of epochs."""
        return f"{self.session.completed} of {self.session.recipe.epochs} epochs"
