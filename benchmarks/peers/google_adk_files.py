"""google-adk: `FileArtifactService`, given a file as its users give it one: read whole into memory."""

import asyncio
import hashlib
import resource
import time
from pathlib import Path

from google.adk.artifacts.file_artifact_service import FileArtifactService
from google.genai.types import Part

from benchmarks.peers.worker import serve_methods

_KEYS = {"app_name": "benchmark", "user_id": "local", "session_id": "files", "filename": "large.bin"}


class Files:
    def open(self, where: str) -> None:
        self._service = FileArtifactService(where)
        self._loop = asyncio.new_event_loop()

    def keep(self, path: str) -> float:
        """Seconds."""
        started = time.perf_counter()
        artifact = Part.from_bytes(data=Path(path).read_bytes(), mime_type="application/octet-stream")
        self._loop.run_until_complete(self._service.save_artifact(**_KEYS, artifact=artifact))
        return time.perf_counter() - started

    def sha256(self) -> str:
        """Of what was kept last; it is removed."""
        found = self._loop.run_until_complete(self._service.load_artifact(**_KEYS))
        self._loop.run_until_complete(self._service.delete_artifact(**_KEYS))
        return hashlib.sha256(found.inline_data.data).hexdigest()

    def peak_megabytes(self) -> float:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    def close(self) -> None:
        self._loop.close()


if __name__ == "__main__":
    serve_methods(Files())
