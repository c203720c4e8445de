"""The part of storage-api for buckets: who may see, make or change one is for the policies on storage.buckets."""

import re
from typing import Any

from servers import gateway_errors as errors
from servers.gateway_database import Caller
from servers.gateway_fastify import json_body, shown
from servers.gateway_http import Reply, Request
from servers.gateway_objects import VALID_BUCKET, Objects

FIELDS = (
    "id", "name", "owner", "public", "type", "file_size_limit", "allowed_mime_types", "created_at", "updated_at",
)  # fmt: skip


class Buckets:
    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def list(self, caller: Caller) -> Reply:
        rows = self._objects.rows(caller, "select * from storage.buckets order by name")
        return errors.json_reply(200, [shown(row, FIELDS) for row in rows])

    def get(self, caller: Caller, bucket_id: str) -> Reply:
        row = self._objects.bucket(caller, bucket_id)
        return errors.json_reply(200, shown(row, tuple(name for name in FIELDS if name != "type")))

    def make(self, request: Request, caller: Caller) -> Reply:
        body = json_body(request)
        name = str(body.get("name", ""))
        if not name:
            raise errors.invalid_request("body must have required property 'name'")
        if name != name.strip() or not VALID_BUCKET.fullmatch(name):
            raise errors.invalid_bucket_name()
        try:
            self._objects.rows(
                caller,
                "insert into storage.buckets (id, name, owner_id, public, file_size_limit, allowed_mime_types)"
                " values (%s, %s, %s, %s, %s, %s) returning id",
                str(body.get("id") or name),
                name,
                caller.subject,
                bool(body.get("public", False)),
                _bytes(body.get("file_size_limit")),
                body.get("allowed_mime_types"),
            )
        except errors.StorageError as error:
            raise (errors.bucket_exists() if error.code == "ResourceAlreadyExists" else error) from error
        return errors.json_reply(200, {"name": name})

    def change(self, request: Request, caller: Caller, bucket_id: str) -> Reply:
        body = json_body(request)
        changed = self._objects.rows(
            caller,
            "update storage.buckets set public = coalesce(%s, public),"
            " file_size_limit = case when %s then %s else file_size_limit end,"
            " allowed_mime_types = case when %s then %s::text[] else allowed_mime_types end where id = %s returning id",
            body.get("public"),
            "file_size_limit" in body,
            _bytes(body.get("file_size_limit")),
            "allowed_mime_types" in body,
            body.get("allowed_mime_types"),
            bucket_id,
        )
        if not changed:
            raise errors.no_bucket()
        return errors.json_reply(200, {"message": "Successfully updated"})


def _bytes(limit: Any) -> int | None:
    units = {"gb": 10**9, "mb": 10**6, "kb": 1000, "b": 1}
    match limit:
        case None | int():
            return limit
        case str() if found := re.fullmatch(r"(\d+(?:\.\d+)?)(gb|mb|kb|b)", limit.lower()):
            return int(float(found[1]) * units[found[2]])
        case _:
            raise errors.invalid_request("body/file_size_limit must match a schema in anyOf")
