"""What requests may contain: a type for each of their values, and the sentence that refuses any other.

Every value from outside is read by a schema: the arguments of endpoints, of the API, and the parameters of links.
"""

import inspect
import reprlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self, get_type_hints

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from gpt import SamplingParams
from gpt.sampling import MAX_SEED, parse_forced

MAX_MODEL_CHARS = 300
MAX_PROMPT_CHARS = 5_000
MAX_TEXT_TOKENS = 5_000  # that one text may grow to
MAX_TEMPERATURE = 2
MAX_INT32 = 2**31 - 1
MAX_LINK_CHARS = 100_000  # 5,000 characters of any script, escaped, and a branch

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 60


class Arguments(BaseModel):
    """The values of a request by name. Each field has a description, which completes the sentence "it must be"."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], strict: bool = True) -> Self:
        """Check values.

        Args:
            values: The values by name.
            strict: Whether each has its own type; otherwise texts are read as numbers.

        Raises:
            ValueError: In a sentence for the visitor, if one is missing, unknown, of another type or out of bounds.
        """
        try:
            return cls.model_validate(dict(values), strict=strict)
        except ValidationError as error:
            raise ValueError(cls._explain(error, values)) from None

    @classmethod
    def _explain(cls, error: ValidationError, values: Mapping[str, Any]) -> str:
        first = error.errors(include_url=False, include_context=False)[0]
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            return f"The request has {_short.repr(name)}; it may have {', '.join(cls.model_fields) or 'no values'}."
        allowed = cls.model_fields[name].description
        if first["type"] == "missing":
            return f"The request has no {name}; it must be {allowed}."
        value = values[name]
        if first["type"] in ("string_too_long", "too_long") and len(first["loc"]) == 1:
            return f"The {name} has {len(value):,} {'characters' if isinstance(value, str) else 'items'}; it must be {allowed}."
        return f"The {name} is {_short.repr(value)}; it must be {allowed}."


def schema_of(function: Callable[..., Any]) -> type[Arguments]:
    """The schema of a function's arguments, from its annotations: types of this module or like them."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
    }
    return create_model(function.__name__, __base__=Arguments, **fields)


def replace_invalid(text: str) -> str:
    """Replace lone surrogates and NUL, which are not valid in JSON or a shell, by U+FFFD, which few models know."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "\ufffd")


def one_of(*values: str) -> AfterValidator:
    """Allow some texts only."""

    def check(value: str) -> str:
        if value not in values:
            raise ValueError
        return value

    return AfterValidator(check)


def _check_branch(text: str) -> str:
    SamplingParams(forced=(forced := parse_forced(text)))
    if any(index >= MAX_TEXT_TOKENS or token > MAX_INT32 for index, token in forced):
        raise ValueError
    return text


Text = Annotated[str, BeforeValidator(lambda value: replace_invalid(value) if isinstance(value, str) else value)]
ModelId = Annotated[Text, Field(max_length=MAX_MODEL_CHARS, description="the id of a model")]
Prompt = Annotated[
    Text, Field(max_length=MAX_PROMPT_CHARS, description=f"a text of up to {MAX_PROMPT_CHARS:,} characters")
]  # fmt: skip
Temperature = Annotated[float, Field(ge=0, le=MAX_TEMPERATURE, description=f"a number from 0 to {MAX_TEMPERATURE}")]
Length = Annotated[
    int, Field(ge=1, le=MAX_TEXT_TOKENS, description=f"a whole number from 1 to {MAX_TEXT_TOKENS:,}")
]  # fmt: skip
LinkLength = Annotated[
    int, Field(ge=0, le=MAX_TEXT_TOKENS, description=f"a whole number from 0 to {MAX_TEXT_TOKENS:,}")
]  # fmt: skip
TopK = Annotated[int, Field(ge=0, le=MAX_INT32, description=f"a whole number from 0 (off) to {MAX_INT32:,}")]
TopP = Annotated[float, Field(gt=0, le=1, description="a number above 0 and at most 1 (off)")]
MinP = Annotated[float, Field(ge=0, lt=1, description="a number from 0 (off) to below 1")]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED, description=f"a whole number from 0 to {MAX_SEED:,}")]
AnySeed = Annotated[
    int | None, Field(ge=0, le=MAX_SEED, description=f"a whole number from 0 to {MAX_SEED:,}, or null for a random one")
]
Branch = Annotated[
    str,
    AfterValidator(_check_branch),
    Field(
        max_length=MAX_LINK_CHARS,
        description=f"pairs index.id such as 12.45,40.3, in order, each index below {MAX_TEXT_TOKENS:,}",
    ),
]
Link = Annotated[
    Text, Field(max_length=MAX_LINK_CHARS, description=f"the query of a link, up to {MAX_LINK_CHARS:,} characters")
]  # fmt: skip
