"""The request's whole life: accepts requests here, decodes them on the engine's thread."""

import time
from concurrent.futures import ThreadPoolExecutor

from cold_backend.adapters.catalogue import AdapterCatalogue
from cold_backend.engine.engine import Engine
from cold_backend.loading import is_fused, load_fused, load_store, load_tokenizer
from cold_backend.requests.parser import RequestParser
from cold_backend.serving import lifeline
from cold_backend.serving.intake import Intake
from cold_backend.serving.outbox import Outbox
from cold_backend.serving.publisher import Publisher
from cold_backend.serving.replies import accept
from cold_backend.serving.steps import execute_step
from cold_backend.telemetry.telemetry import Telemetry
from cold_backend.telemetry.tracing import stop_tracing


class TritonPythonModel:
    def initialize(self, args):
        with lifeline.starting(args) as settings:
            self._start(args, settings)

    def _start(self, args, settings):
        self._tokenizer = tokenizer = load_tokenizer(settings)
        # The thread that steps also loads: a second one that computes would have OpenMP threads of
        # its own, and the two sets, more than there are cores, would sleep at every barrier.
        thread = ThreadPoolExecutor(1, "engine")
        fused = is_fused(settings)
        execute, store = execute_step, load_store(settings, keeps=fused)
        if fused:
            execute = thread.submit(load_fused, settings, store).result().execute
        elif store:
            execute = store.pace.beside(execute)
        self._outbox = Outbox()
        self._telemetry = Telemetry(settings, lifeline.restarts(args))
        self._engine = Engine.of(settings, execute, self._telemetry)
        self._intake = Intake(
            RequestParser(settings, tokenizer),
            AdapterCatalogue(settings, store),
            self._engine,
            tokenizer,
            self._telemetry,
            settings.max_wait_s,
        )
        self._pulse = lifeline.pulse(args)
        self._running = thread.submit(self._run)
        self._publisher = Publisher(self._telemetry, self._engine.load)
        self._args = args
        lifeline.when_server_stops(args, self._engine.drain, self._stop)

    def execute(self, requests):
        now_s = time.monotonic()
        with self._pulse.accepting():
            for request in requests:
                accept(request, now_s, self._intake, self._outbox, self._telemetry, self._tokenizer)

    def finalize(self):
        self._stop()

    def _run(self):
        with lifeline.vital():
            self._engine.run(self._pulse.stepping)
        self._intake.close()
        self._outbox.close()
        lifeline.say_stopped(self._args)

    def _stop(self):
        self._engine.close()
        self._running.result()
        self._publisher.close()
        self._pulse.close()
        stop_tracing()
