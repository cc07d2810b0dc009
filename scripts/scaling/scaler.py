"""Looks at each tier in turn, decides, and has the decision carried out. Only one scaler at a time does, of several."""

from __future__ import annotations

import logging
import time
from uuid import uuid4

import redis

from models.runtime.clock import now_us
from models.runtime.live_settings import LiveSettings
from models.runtime.settings import BoundsSettings
from scripts.scaling.actuators import Actuator, NotDone, Standing
from scripts.scaling.decision import Decision, Memory, decide
from scripts.scaling.figures import Measured, NodeFigures, QueueFigures, Unknown
from scripts.scaling.metrics import ScalerMetrics
from workers.rooms import Rooms

log = logging.getLogger(__name__)

_LEADS_FOR = 3  # looks; another scaler takes over when so many have been missed


class Scaler:
    """``round`` is one look at everything; it never raises because something is away."""

    def __init__(
        self,
        live: LiveSettings,
        queues: QueueFigures,
        nodes: NodeFigures,
        rooms: Rooms,
        actuator: Actuator,
        metrics: ScalerMetrics,
    ) -> None:
        self._live = live
        self._queues = queues
        self._nodes = nodes
        self._rooms = rooms
        self._actuator = actuator
        self._metrics = metrics
        self._name = uuid4().hex
        self._memories: dict[str, Memory] = {}
        self._said: dict[str, str] = {}

    def round(self) -> None:
        """Look at all tiers, unless another scaler does, or nobody can tell."""
        try:
            self._live.take_over(self._rooms.changed_settings())
            leads = self._rooms.lead("scaler", self._name, _LEADS_FOR * self._live.current.scaler.interval_s)
        except redis.RedisError as error:
            for tier in self._actuator.tiers:
                self._hold(tier, "unknown", f"Redis is away: {error}")
            return
        self._live.hold_levels(now_us())
        for tier in self._actuator.tiers:
            if leads:
                self._look_after(tier)
            else:
                self._stand_by(tier)

    def _look_after(self, tier: str) -> None:
        try:
            standing = self._actuator.standing(tier)
            self._metrics.gauge(f"tiers.{tier}.count", standing.count, everywhere=True)
            if standing.busy:
                self._hold(tier, "busy", standing.busy)
                return
            measured = self._measure(tier, standing.count)
        except (Unknown, NotDone) as error:
            self._hold(tier, "unknown", str(error))
            return
        except redis.RedisError as error:
            self._hold(tier, "unknown", f"Redis is away: {error}")
            return
        self._metrics.gauge(f"tiers.{tier}.pressure", measured.load.pressure, everywhere=True)
        rules = self._live.current.scaler
        bounds: BoundsSettings = getattr(rules, tier)
        decision = decide(measured.load, bounds, rules, self._memories.get(tier, Memory()), time.monotonic())
        if decision.count == standing.count:
            self._memories[tier] = decision.memory
            self._say(tier, decision.why, measured)
        else:
            self._change(tier, standing, decision, measured)

    def _measure(self, tier: str, count: int) -> Measured:
        rules = self._live.current.scaler
        if tier == "nodes":
            return self._nodes.measure(count, rules)
        return self._queues.measure(tier, count, rules)

    def _change(self, tier: str, standing: Standing, decision: Decision, measured: Measured) -> None:
        dry_run = self._live.current.scaler.dry_run
        told = {"tier": tier, "before": standing.count, "after": decision.count, "why": decision.why}
        told |= {"pressure": round(measured.load.pressure, 3), **measured.figures}
        try:
            if not dry_run:
                self._actuator.scale(tier, standing, decision.count, decision.why, told)
        except NotDone as error:
            # Decided anew at the next look.
            self._metrics.count("scaled.refused")
            log.warning("not_scaled", extra=told | {"error": str(error)})
            return
        self._memories[tier] = decision.memory
        self._said.pop(tier, None)
        log.info("would_scale" if dry_run else "scaled", extra=told)
        if not dry_run:
            self._metrics.count("scaled.up" if decision.count > standing.count else "scaled.down")

    def _hold(self, tier: str, kind: str, why: str) -> None:
        """Nothing is known, so what was seen before counts for nothing either."""
        self._memories.pop(tier, None)
        self._metrics.count(f"held.{kind}")
        if kind == "unknown":
            self._metrics.gauge(f"tiers.{tier}.pressure", None, everywhere=True)
        self._say(tier, why)

    def _stand_by(self, tier: str) -> None:
        self._memories.pop(tier, None)
        for gauge in ("count", "pressure"):
            self._metrics.gauge(f"tiers.{tier}.{gauge}", None, everywhere=True)
        self._say(tier, "another scaler is at work")

    def _say(self, tier: str, why: str, measured: Measured | None = None) -> None:
        """Once for each new reason."""
        if self._said.get(tier) != why:
            self._said[tier] = why
            log.info("nothing_scaled", extra={"tier": tier, "why": why, **(measured.figures if measured else {})})
