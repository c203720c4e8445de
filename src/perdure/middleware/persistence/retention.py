"""Lets go of what shall not be kept: of turns and of the files that nothing else needs, here and in the spool."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from perdure.errors import StoreUnavailable
from perdure.middleware.persistence.ports import FileStore, Store
from perdure.middleware.persistence.spool import Spool
from perdure.middleware.persistence.upkeep import FileName, Removed

__all__ = ["LetGo", "delete_conversation", "forget_user", "purge_expired"]

_AT_ONCE = 100
"""Conversations in one batch."""

_ALWAYS = datetime.max.replace(tzinfo=UTC)

_ABOUT_TO_BE_NAMED = timedelta(minutes=15)
"""A file that was put within so long may belong to a turn whose end is not written yet."""


@dataclass(slots=True)
class LetGo:
    """What is gone, or would be."""

    conversations: int = 0
    turns: int = 0
    files: int = 0
    in_use: list[FileName] = field(default_factory=list)
    """Of files that were given out a moment ago; somebody else may be about to name them."""
    elsewhere: list[FileName] = field(default_factory=list)
    """Of files that are in another bucket than the one of these settings."""
    failed: dict[FileName, str] = field(default_factory=dict)
    """Of files that could not be removed, and why. No turn names them any more."""
    waiting: int = 0
    """Turns that waited in the spool of this machine."""


def purge_expired(
    store: Store,
    file_store: FileStore,
    spool: Spool | None,
    *,
    dry_run: bool,
    at_most: int | None = None,
    progress: Callable[[LetGo], None],
) -> LetGo:
    """Remove what has expired, a batch at a time, so that whoever keeps a turn meanwhile hardly waits.

    Raises:
        StoreUnavailable: The store is away. What was removed until then is removed; the next purge goes on.
    """
    done = LetGo()
    if dry_run:
        removed = store.purge(limit=at_most or 1_000_000, dry_run=True)
        done.files = sum(not (name.shared and file_store.one_copy) for name in removed.files)
        done.conversations, done.turns = removed.conversations, removed.turns
        return done
    left = at_most
    while (left is None or left > 0) and (
        removed := store.purge(limit=_AT_ONCE if left is None else min(left, _AT_ONCE))
    ).conversations:
        left = None if left is None else left - removed.conversations
        _take(done, removed, file_store, spool)
        progress(done)
    return done


def delete_conversation(
    store: Store, file_store: FileStore, spool: Spool | None, principal: str, continuation_id: str
) -> LetGo:
    """Remove one conversation: what waits of it in this machine's spool, too.

    Raises:
        StoreUnavailable: The store is away.
    """
    done = LetGo()
    _take(done, store.delete(principal, continuation_id), file_store, spool)
    # After the store, so that nothing is lost where that is away; and once more, for what was sent meanwhile.
    if spool is not None and (waiting := spool.forget(principal, continuation_id)):
        done.waiting = waiting
        _take(done, store.delete(principal, continuation_id), file_store, spool)
        _take(done, Removed(files=_again(done)), file_store, spool)
    return done


def forget_user(
    store: Store, file_store: FileStore, spool: Spool | None, principal: str, *, progress: Callable[[LetGo], None]
) -> LetGo:
    """Remove all that `principal` has, expired or not: what waits in this machine's spool, too.

    Raises:
        StoreUnavailable: The store is away. What was removed until then is removed.
    """
    done = LetGo()
    _forget(done, store, file_store, spool, principal, progress)
    if spool is not None and (waiting := spool.forget(principal)):
        done.waiting = waiting
        _forget(done, store, file_store, spool, principal, progress)  # what was sent meanwhile
        _take(done, Removed(files=_again(done)), file_store, spool, unused_since=_ALWAYS)
    return done


def _forget(
    done: LetGo,
    store: Store,
    file_store: FileStore,
    spool: Spool | None,
    principal: str,
    progress: Callable[[LetGo], None],
) -> None:
    while (removed := store.forget(principal, limit=_AT_ONCE)).conversations:
        # Nobody else can name a file of this tenant, so none is left for it.
        _take(done, removed, file_store, spool, unused_since=_ALWAYS)
        progress(done)


def _again(done: LetGo) -> tuple[FileName, ...]:
    """The files that turns which waited named, and do no more."""
    names, done.in_use = done.in_use, []
    return tuple(names)


def _take(
    done: LetGo, removed: Removed, file_store: FileStore, spool: Spool | None, *, unused_since: datetime | None = None
) -> None:
    unused_since = unused_since or datetime.now(UTC) - _ABOUT_TO_BE_NAMED
    done.conversations += removed.conversations
    done.turns += removed.turns
    for name in _here(removed.files, file_store, done):
        if spool is not None and spool.names_file(name.key):
            done.in_use.append(name)
            continue
        try:
            if file_store.remove(name.key, unused_since=unused_since):
                done.files += 1
            else:
                done.in_use.append(name)
        except StoreUnavailable as error:
            done.failed[name] = error.what


def _here(names: Iterable[FileName], file_store: FileStore, done: LetGo) -> Iterable[FileName]:
    for name in names:
        if name.bucket != file_store.bucket:
            done.elsewhere.append(name)
        elif not (name.shared and file_store.one_copy):
            yield name
