"""Whether requests wait for `cold` to take them in, as tritonserver counts them."""

from __future__ import annotations

import re
import threading
import urllib.error
import urllib.request

_INTERVAL_S = 2.0
_TIMEOUT_S = 5.0
_PENDING = re.compile(r'^nv_inference_pending_request_count\{model="cold",[^}]*\} ([\d.]+)', re.M)


class Backlog:
    """Asks for the metrics now and then, on a thread of its own: they may be long in coming.

    Args:
        url: of the metrics. Where there are none, nothing waits.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._waits = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="backlog", daemon=True)
        self._thread.start()

    def waits(self) -> bool:
        """Whether requests waited when tritonserver was last asked."""
        return self._waits

    def close(self) -> None:
        """Asks no more."""
        self._closing.set()

    def _run(self) -> None:
        while not self._closing.wait(_INTERVAL_S):
            try:
                with urllib.request.urlopen(self._url, timeout=_TIMEOUT_S) as response:
                    text = response.read().decode(errors="replace")
            except (urllib.error.URLError, OSError):
                text = ""
            pending = _PENDING.search(text)
            self._waits = pending is not None and float(pending[1]) > 0
