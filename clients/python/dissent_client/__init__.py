"""A client of a Dissent server: experiments, tables, events and judgements.

Every method sends requests to the server's HTTP API. A refusal raises :class:`Refused`, with the server's reason.
"""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, Iterator, List, Mapping, Optional, Union

if TYPE_CHECKING:
    import pandas

__all__ = ["Client", "Refused"]

Json = Dict[str, Any]


class Refused(Exception):
    """The server refused a request. ``status`` is that of HTTP, ``problem`` the body of the answer."""

    def __init__(self, status: int, problem: Json) -> None:
        super().__init__(f"{status}: {problem.get('detail', 'no reason')}")
        self.status = status
        self.problem = problem


class Client:
    """A client of the server at ``url``, such as ``http://127.0.0.1:9464``.

    ``token`` is an API token, or the server's control token. ``timeout`` bounds the wait for each part of an answer, in
    seconds.
    """

    def __init__(self, url: str, token: Optional[str] = None, timeout: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    # Experiments.

    def experiments(self) -> List[Json]:
        """The experiments that the caller may read, by name."""
        return list(self._pages("/api/v1/experiments", {}))

    def experiment(self, name: str) -> Json:
        """Figures and plan of an experiment, and what the server does with it."""
        return self._json("GET", self._path(name))

    def state(self, name: str, at: int) -> Json:
        """Figures and plan as of a position of the log."""
        return self._json("GET", self._path(name, "state"), {"at": at})

    def create(
        self,
        configuration: Union[str, Path, Json],
        files: Optional[Mapping[str, Union[str, Path, bytes]]] = None,
        start: bool = True,
    ) -> str:
        """Records an experiment, and returns its name.

        ``configuration`` is TOML, a path to it, or the same as a dictionary. ``files`` has each file that it names, by the
        name in the configuration: a path or the bytes.
        """
        if isinstance(configuration, Path):
            configuration = configuration.read_text(encoding="utf-8")
        hashes = {name: self.upload(content) for name, content in (files or {}).items()}
        body = {"configuration": configuration, "files": hashes, "start": start}
        return self._json("POST", "/api/v1/experiments", body=body)["experiment"]

    def upload(self, content: Union[str, Path, bytes]) -> str:
        """Uploads a file of at most 64 MiB, and returns its hash."""
        data = content if isinstance(content, bytes) else Path(content).read_bytes()
        with self._open("POST", "/api/v1/artifacts", data=data, kind="application/octet-stream") as answer:
            return json.load(answer)["artifact"]

    def order(self, name: str, action: str, reason: Optional[str] = None) -> Json:
        """Gives an order: ``start``, ``pause``, ``resume`` or ``cancel``."""
        return self._json("POST", self._path(name, "orders", action), body={"reason": reason})

    def fork(self, name: str, new: str, at: Optional[int] = None, settings: Iterable[str] = ()) -> Json:
        """Forks an experiment at a position of the log, with settings ``KEY=VALUE``."""
        return self._json("POST", self._path(name, "fork"), body={"name": new, "at": at, "set": list(settings)})

    # Tables.

    def rows(self, name: str, table: str, **filters: Any) -> Iterator[Json]:
        """The rows of a table, read while they come. ``pacs__gte=0.5`` filters as ``pacs.gte=0.5``."""
        with self._open("GET", self._path(name, "tables", table), self._filters(filters, "jsonl")) as answer:
            for line in answer:
                yield json.loads(line)

    def table(self, name: str, table: str, **filters: Any) -> "pandas.DataFrame":
        """A table as a pandas data frame. Needs pandas and pyarrow."""
        import pandas

        return pandas.read_parquet(io.BytesIO(self.parquet(name, table, **filters)))

    def parquet(self, name: str, table: str, **filters: Any) -> bytes:
        """A table as a Parquet file."""
        with self._open("GET", self._path(name, "tables", table), self._filters(filters, "parquet")) as answer:
            return answer.read()

    # Events.

    def events(self, name: str, after: Optional[int] = None, retry: float = 1.0) -> Iterator[Json]:
        """The events of an experiment as they come, each with ``version``, ``position``, ``event_type``, ``time_us``.

        Begins after the version ``after``, or with the next event. A lost connection is opened again after ``retry``
        seconds, and no event is missed. The iteration ends with the experiment.
        """
        query = {} if after is None else {"after": after}
        last: Optional[int] = after
        while True:
            headers = {"Accept": "text/event-stream"}
            if last is not None:
                headers["Last-Event-ID"] = str(last)
            try:
                with self._open("GET", self._path(name, "events"), query, headers=headers) as answer:
                    for line in answer:
                        if not line.startswith(b"data: "):
                            continue
                        message = json.loads(line[len(b"data: "):])
                        last = message["version"]
                        for event in message["events"]:
                            yield event
                            if event["event_type"] in ("experiment.finished", "experiment.cancelled"):
                                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(retry)

    # Judgements.

    def comparisons(self, name: str, annotator: Optional[str] = None, limit: int = 100) -> List[Json]:
        """Comparisons that wait for judgements, without scores."""
        query: Dict[str, Any] = {"limit": limit}
        if annotator is not None:
            query["annotator"] = annotator
        return self._json("GET", self._path(name, "comparisons"), query)["rows"]

    def judge(self, name: str, judgements: Iterable[Json], attempts: int = 5) -> Json:
        """Records judgements, all or none. They are durable on return.

        Each has ``round``, ``comparison`` and ``verdict`` (``first``, ``second`` or ``tie``), and may have ``annotator``,
        ``is_unsafe`` and ``comment``. A server that does not answer is asked again: a judgement is recorded once.
        """
        body = list(judgements)
        for attempt in range(attempts):
            try:
                return self._json("POST", self._path(name, "judgements"), body=body)
            except Refused as refused:
                if refused.status != 503 or attempt + 1 == attempts:
                    raise
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if attempt + 1 == attempts:
                    raise
            time.sleep(2**attempt)
        raise ValueError("attempts: use at least 1")

    # Requests.

    @staticmethod
    def _path(name: str, *rest: str) -> str:
        return "/api/v1/experiments/" + "/".join(urllib.parse.quote(part, safe="") for part in (name, *rest))

    @staticmethod
    def _filters(filters: Mapping[str, Any], form: str) -> Dict[str, Any]:
        named = {key.replace("__", "."): value for key, value in filters.items()}
        texts = {key: str(value).lower() if isinstance(value, bool) else value for key, value in named.items()}
        return {**texts, "format": form}

    def _pages(self, path: str, query: Dict[str, Any]) -> Iterator[Json]:
        while True:
            page = self._json("GET", path, query)
            yield from page["rows"]
            if page["next"] is None:
                return
            query = {**query, "cursor": page["next"]}

    def _json(self, method: str, path: str, query: Optional[Mapping[str, Any]] = None, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with self._open(method, path, query, data, "application/json") as answer:
            return json.loads(answer.read() or b"null")

    def _open(
        self,
        method: str,
        path: str,
        query: Optional[Mapping[str, Any]] = None,
        data: Optional[bytes] = None,
        kind: Optional[str] = None,
        headers: Optional[Mapping[str, str]] = None,
    ) -> Any:
        address = self.url + path + ("?" + urllib.parse.urlencode(query) if query else "")
        sent = {**self._headers, **(headers or {})}
        if data is not None and kind is not None:
            sent["Content-Type"] = kind
        if method == "POST" and path == "/api/v1/experiments":
            # A repeated request creates nothing twice.
            sent["Idempotency-Key"] = str(uuid.uuid4())
        request = urllib.request.Request(address, data=data, headers=sent, method=method)
        try:
            return urllib.request.urlopen(request, timeout=self.timeout)
        except urllib.error.HTTPError as error:
            raise Refused(error.code, self._problem(error)) from None

    @staticmethod
    def _problem(error: urllib.error.HTTPError) -> Json:
        try:
            problem = json.loads(error.read())
        except ValueError:
            problem = {}
        return problem if isinstance(problem, dict) else {}
