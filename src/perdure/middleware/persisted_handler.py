"""What stands in a decorated handler's place before the SDK: the handler's own face, and a turn around its body."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import anyio
import anyio.lowlevel
from anyio.lowlevel import checkpoint_if_cancelled

from perdure.errors import DecoratorError
from perdure.logs import log
from perdure.middleware.active_call import ActiveCall, active_call, within
from perdure.middleware.call_files import Report, Reporter
from perdure.middleware.call_reader import Caller, ToolRequest, ToolShape
from perdure.middleware.handler_arguments import HandlerArguments
from perdure.middleware.handler_signature import CONTEXT_PARAMETER, HandlerSignature, read_signature
from perdure.middleware.lowlevel_values import schema_of, tool_name_of
from perdure.middleware.persisted_call import PersistedCall
from perdure.middleware.persistence.wiring import Runtime, runtime
from perdure.middleware.sdk import RegisteredTool, sdk
from perdure.middleware.serving import HighLevel, LowLevel, Serving, is_cancellation
from perdure.middleware.tool_plan import KnownPlans, ToolPlan
from perdure.middleware.tool_schema import CONTINUATION_ID, declares_continuation_id
from perdure.settings import HistoryMode, Policy, Settings, ToolSettings

__all__ = ["PersistedHandler", "options_of", "persisted_handler_of"]

_MOST_FUNCTIONS = 100
"""That are remembered to lead to one handler."""


def persisted_handler_of(function: object) -> "PersistedHandler | None":
    """The handler behind `function`, if it is decorated: itself, bound to an instance, or in a `partial`."""
    if isinstance(function, functools.partial):
        return persisted_handler_of(function.func)
    function = getattr(function, "__func__", function)
    handler = getattr(function, "__perdure__", None)
    # Other decorators copy the attribute onto functions of their own.
    return handler if isinstance(handler, PersistedHandler) and handler.function is function else None


def options_of(function: object) -> ToolSettings | None:
    """The options of `@persisted` on `function`, or below other decorators on it; None if it is not there."""
    return next((handler.in_code for handler in _handlers_behind(function)), None)


def _handlers_behind(function: object) -> Iterator["PersistedHandler"]:
    seen = 0
    while function is not None and seen < 100:
        if (handler := persisted_handler_of(function)) is not None:
            yield handler
        function = getattr(getattr(function, "__func__", function), "__wrapped__", None)
        seen += 1


class PersistedHandler:
    """`switched_on=False`: the handler as it is, but for its history parameter, which no SDK could fill."""

    def __init__(self, handler: Callable[..., Any], in_code: ToolSettings, *, switched_on: bool = True) -> None:
        self.handler = handler
        self.in_code = in_code
        self.signature: HandlerSignature = read_signature(handler, sdk.context_type(), adds=switched_on)
        self._switched_on = switched_on
        self._warned = False
        self.arguments = HandlerArguments(handler, self.signature)
        self._plans = KnownPlans()
        self._behind: dict[int, object] = {}
        """Functions that are known to lead here, by their identity: not all can be compared or hashed."""
        self._off: dict[str | None, Settings] = {}
        """The names under which it is switched off, and by which settings: then nothing else is looked at."""
        self._refuse_options_that_cannot_hold()
        self.function = handler if not switched_on and self.signature.history_parameter is None else self._function()

    def _refuse_options_that_cannot_hold(self) -> None:
        name, signature = _name(self.handler), self.signature
        if self.in_code.history is HistoryMode.PARAMETER and signature.history_parameter is None:
            raise DecoratorError(
                f'@persisted(history="parameter") stands on {name}, which has no parameter for it.',
                remedy="annotate a parameter as History, or choose another place for the history.",
            )
        argument = self.in_code.prompt_argument
        if argument is not None and signature.arguments is not None and argument not in signature.arguments:
            raise DecoratorError(
                f"@persisted(prompt_argument={argument!r}) stands on {name}, which has no such argument.",
                remedy=f"name one of: {', '.join(sorted(signature.arguments)) or 'it has none'}.",
            )

    def _function(self) -> Callable[..., Any]:
        """A real function: SDKs read from it what no proxy passes on."""
        shell: Any
        # In locals, since a call that is not persisted shall not notice.
        handler, off, added, called_tool = self.handler, self._off, self.arguments.added, sdk.called_tool
        if _is_async(self.handler):

            async def shell(*args: Any, **kwargs: Any) -> Any:
                if off and off.get(called_tool()) is runtime().settings:
                    for name in added:
                        kwargs.pop(name, None)
                    return await handler(*args, **kwargs)
                return await self._serve_async(args, kwargs)
        else:

            def shell(*args: Any, **kwargs: Any) -> Any:
                if off and off.get(called_tool()) is runtime().settings:
                    for name in added:
                        kwargs.pop(name, None)
                    return handler(*args, **kwargs)
                return self._serve(args, kwargs)

        updated = functools.WRAPPER_UPDATES if inspect.isroutine(self.handler) else ()
        functools.update_wrapper(shell, self.handler, updated=updated)
        shell.__name__ = _name(self.handler)
        shell.__signature__ = self.signature.shown
        shell.__annotations__ = dict(self.signature.annotations)
        shell.__perdure__ = self
        return cast(Callable[..., Any], shell)

    # A call that is not persisted goes straight through. One that is: begin, body, finish, announce; twice, since
    # Python has two kinds of functions.

    async def _serve_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        serving = self._open(args, kwargs)
        if serving is None:
            plain_args, plain_kwargs = self.arguments.straight_through(args, kwargs)
            return await self.handler(*plain_args, **plain_kwargs)
        call = serving.call
        kept = call.kept
        await call.begin_async()
        if kept.replayed is not None:
            return serving.replay(kept.replayed)
        try:
            if kept.refusal is not None:
                raise serving.refused(kept.refusal)
            if call.steps.have_waited:
                await checkpoint_if_cancelled()
            with within(serving.active):
                given_args, given_kwargs = serving.given(args, kwargs)
                value = await self.handler(*given_args, **given_kwargs)
        except BaseException as error:
            call.end_with_error(error, cancelled=is_cancellation(error))
            await call.finish_async()
            raise
        if serving.leaves_result_to_sdk(value):
            return value
        serving.end(value)
        await call.finish_async()
        return serving.answer(value)

    def _serve(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        serving = self._open(args, kwargs)
        if serving is None:
            plain_args, plain_kwargs = self.arguments.straight_through(args, kwargs)
            return self.handler(*plain_args, **plain_kwargs)
        call = serving.call
        kept = call.kept
        if kept.reporter is not None:
            kept.reporter = functools.partial(_unless_nobody_can_be_told, call, kept.reporter)
        call.begin()
        if kept.replayed is not None:
            return serving.replay(kept.replayed)
        try:
            if kept.refusal is not None:
                raise serving.refused(kept.refusal)
            with within(serving.active):
                given_args, given_kwargs = serving.given(args, kwargs)
                value = self.handler(*given_args, **given_kwargs)
        except BaseException as error:
            call.end_with_error(error, cancelled=is_cancellation(error))
            call.finish()
            raise
        gave_up = _client_gave_up()
        if not gave_up and serving.leaves_result_to_sdk(value):
            return value
        serving.end(value, cancelled=gave_up)
        call.finish()
        return serving.answer(value)

    def _open(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Serving | None:
        """How to serve this call; None to let it straight through."""
        if not self._switched_on:
            return None
        serving: Serving | None = None  # Called from Python, outside of any request.
        try:
            context = kwargs.get(self.signature.context_parameter)
            if context is not None:
                serving = self._open_with_context(context, kwargs)
            elif self.signature.takes_arguments and not sdk.was_registered(self.function):
                serving = self._open_lowlevel(args, kwargs)
            if serving is not None and serving.call.policy.files:
                serving.call.kept.reporter = sdk.reporter(serving.active.request)
        except Exception as error:  # noqa: BLE001 - no fault of ours may break a call
            runtime().say("call.not_understood", error)
            return None
        return serving

    def _open_with_context(self, context: object, kwargs: Mapping[str, Any]) -> Serving | None:
        its_sdk = sdk.of_context(type(context))
        request = its_sdk.request_of(context) or sdk.current_request()
        key = context if request is None else request.key
        active = active_call.get()
        here = active if active is not None and active.key is key else None
        if here is not None and here.call is not None:
            return None  # Persisted already: by the server hook, or around the tool whose body calls this one.
        params: Mapping[str, Any] = request.params if request is not None else {}
        name = params.get("name") if request is not None else None
        tool = its_sdk.registered_tool(context, self._is_behind, name)
        if tool is None:
            return None  # Another tool's body called this function.
        now = runtime()
        policy = now.policy(tool.name, self.in_code)
        if not policy.enabled:
            if name == tool.name and self.signature.history_parameter is None:
                self._off[name] = now.settings
            return None
        if request is not None:
            arguments = dict(params.get("arguments") or {})
        else:
            hidden = (CONTEXT_PARAMETER, self.signature.context_parameter)
            arguments = {name: sdk.jsonable(value) for name, value in kwargs.items() if name not in hidden}
        caller = sdk.caller_of(request)
        if request is None:
            asked = ToolRequest(tool=tool.name, arguments=arguments, caller=caller)
        else:
            asked = request.for_tool(tool.name, arguments, caller)
        hooked = here is not None
        plan = self._plans.plan(tool.name, policy, tool.input_schema, tool.output_schema, widened=hooked)
        call = PersistedCall(now, asked, plan or self._new_plan(now, tool, policy, hooked=hooked))
        outermost = tool.function is self.function or persisted_handler_of(tool.function) is self
        if not outermost:
            self._warn_of_what_stands_between(tool.name)
        active = here or ActiveCall(key, tool.name, request)
        return HighLevel(call, active, tool, self.arguments, hooked, outermost)  # by place: names take as long again

    def _new_plan(self, now: Runtime, tool: RegisteredTool, policy: Policy, *, hooked: bool) -> ToolPlan:
        shape = ToolShape(
            declares_id=self.signature.declares_id,
            takes_history=self.signature.history_parameter is not None,
            input_schema=tool.input_schema,
            output_schema=tool.output_schema,
            schema_widened=hooked,
        )
        return self._plans.noted(tool.name, ToolPlan(now, policy, shape))

    def _open_lowlevel(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Serving | None:
        sent = kwargs.get("arguments", args[-1] if args else None)
        if not isinstance(sent, Mapping):
            return None
        request = sdk.current_request()
        active = active_call.get()
        here = active if active is not None and request is not None and active.key is request.key else None
        if here is not None and here.call is not None:
            return None  # Persisted already: by the server hook, or around the tool whose body calls this one.
        owner = getattr(self.handler, "__self__", args[0] if len(args) > 1 else None)
        params: Mapping[str, Any] = request.params if request is not None else {}
        name = params.get("name") or tool_name_of(owner, _name(self.handler))
        now = runtime()
        policy = now.policy(name, self.in_code)
        if not policy.enabled:
            return None
        self.arguments.were_persisted = True
        arguments = dict(sent)
        if here is not None and CONTINUATION_ID in (params.get("arguments") or {}):
            # A hook that does not know of us takes it for one that the tool would refuse.
            arguments.setdefault(CONTINUATION_ID, params["arguments"][CONTINUATION_ID])
        schema = schema_of(owner)
        if request is None:
            # A server that was made before perdure was imported shows us no request: then it may be anybody's.
            asked = ToolRequest(tool=name, arguments=arguments, caller=Caller(remote=True))
        else:
            asked = request.for_tool(name, arguments, sdk.caller_of(request))
        plan = self._plans.plan(name, policy, schema)
        if plan is None:
            declares_id = declares_continuation_id(schema)
            shape = ToolShape(declares_id=declares_id, input_schema=schema, output_schema_is_known=False)
            plan = self._plans.noted(name, ToolPlan(now, policy, shape))
        call = PersistedCall(now, asked, plan)
        key = call if request is None else request.key
        return LowLevel(call, here or ActiveCall(key, name, request), hooked=here is not None)

    def _is_behind(self, function: object) -> bool:
        """Whether a call of `function` comes here: directly, or through other decorators."""
        if self._behind.get(id(function)) is function:
            return True
        if not any(handler is self for handler in _handlers_behind(function)):
            return False
        if len(self._behind) < _MOST_FUNCTIONS:
            self._behind[id(function)] = function
        return True

    def _warn_of_what_stands_between(self, tool: str) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "decorator.not_outermost",
                what=f"Another decorator stands above @persisted on the tool {tool}: its turns are kept, but its"
                " results cannot carry the continuation id.",
                remedy="put @persisted directly below @mcp.tool(), or call perdure.install(server).",
            )


def _is_async(handler: object) -> bool:
    while isinstance(handler, functools.partial):
        handler = handler.func
    return inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def _name(handler: object) -> str:
    while isinstance(handler, functools.partial) and not hasattr(handler, "__name__"):
        handler = handler.func
    return getattr(handler, "__name__", type(handler).__name__)


def _unless_nobody_can_be_told(call: PersistedCall, reporter: Reporter) -> Report | None:
    return None if call.steps.are_in_place and _on_an_event_loop() else reporter()


def _on_an_event_loop() -> bool:
    """Whether this thread runs one: there the first version of the SDK calls synchronous tools."""
    try:
        anyio.lowlevel.current_token()
    except RuntimeError:  # of which anyio's own NoEventLoopError is one
        return False
    return True


def _client_gave_up() -> bool:
    """Whether the call was cancelled while its synchronous body ran, in a thread that nothing could stop."""
    from anyio.from_thread import check_cancelled  # noqa: PLC0415 - the event loop brings it

    try:
        check_cancelled()
    except RuntimeError:
        return False  # Not a worker thread of an event loop.
    except BaseException as error:
        if is_cancellation(error):
            return True
        raise
    return False
