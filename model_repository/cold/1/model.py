"""The request's whole life: accepts requests here, decodes them on the engine's thread."""

import threading

from cold_backend import server_io
from cold_backend.engine import Engine
from cold_backend.loading import load_tokenizer
from cold_backend.request import RequestParser
from cold_backend.scheduler import Scheduler
from cold_backend.sequence import Sequence


class TritonPythonModel:
    def initialize(self, args):
        settings = server_io.start(args)
        self._tokenizer = load_tokenizer(settings)
        self._parser = RequestParser(settings, self._tokenizer)
        scheduler = Scheduler(settings.max_sequences, settings.max_step_tokens)
        self._engine = Engine(server_io.execute_step, scheduler, settings.max_queue)
        self._thread = threading.Thread(target=self._engine.run, name="engine")
        self._thread.start()
        server_io.when_server_stops(args, self._stop)

    def execute(self, requests):
        for request in requests:
            server_io.accept(request, self._take)

    def finalize(self):
        self._stop()

    def _stop(self):
        self._engine.close()
        self._thread.join()

    def _take(self, inputs, sender):
        request = self._parser.parse(inputs)
        sink = server_io.ResponseSink(sender, request)
        self._engine.submit(Sequence(request, sink, self._tokenizer))
