"""How to caption: one section of a recipe, and what each method needs besides.

A caption has one `method`. The methods that ask a model take the section of the same name
(`vision_language`, `server`), `file` takes a path; a section that the method does not use is an error, so
that no setting is without effect.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from medgen_captioning.prompts import REQUEST_TEMPLATE, check_template

Method = Literal["empty", "file", "measured", "server", "simple", "vision-language"]
Dtype = Literal["bfloat16", "float16", "float32"]
TemplateName = Literal["chatml", "llama3", "mistral", "vicuna", "yi"]
Target = Literal["clip", "flux", "pixart"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TokenBudget(_Section):
    """How long a caption may be, in the tokens of the model that will be trained on it.

    Attributes:
        tokenizer: Hub name or folder.
        subfolder: Where in it, e.g. `tokenizer` in the folder of a diffusers pipeline.
        max_tokens: Most tokens, the special ones included.
    """

    tokenizer: str
    subfolder: str = ""
    max_tokens: int = Field(ge=8)


TARGETS: dict[Target, TokenBudget] = {
    "clip": TokenBudget(tokenizer="openai/clip-vit-large-patch14", max_tokens=77),
    "flux": TokenBudget(tokenizer="google/t5-v1_1-xxl", max_tokens=512),
    "pixart": TokenBudget(
        tokenizer="PixArt-alpha/PixArt-XL-2-512x512", subfolder="tokenizer", max_tokens=120
    ),
}


class Decoding(_Section):
    """How words are drawn; the defaults are those of Med-Art's released code.

    Attributes:
        do_sample: Draw words at random; false takes the likeliest word, and one attempt is all there is.
        temperature: Divides the logits.
        top_k: Only this many of the likeliest tokens.
        top_p: Of these, the likeliest whose probabilities add up to this.
        max_new_tokens: Longest answer.
    """

    do_sample: bool = True
    temperature: float = Field(default=0.8, gt=0)
    top_k: int = Field(default=50, ge=1)
    top_p: float = Field(default=0.9, gt=0, le=1)
    max_new_tokens: int = Field(default=150, ge=1)


class VisionLanguageConfig(_Section):
    """A vision-language model in this process.

    Attributes:
        model: Hub name or folder of an image-text-to-text model, e.g. `llava-hf/llama3-llava-next-8b-hf`.
        revision: Branch, tag or commit of the hub repository; None: its main branch.
        dtype: Of the weights.
        device: `auto` is the first GPU, or the CPU where there is none.
        batch_size: Images answered at once.
        chat_template: `auto` takes the template that comes with the model.
        prefill_opening: Begin the answer with the simple caption, so that the model only continues it.
            Not what Med-Art does: there a wrong beginning is drawn again.
        decoding: How words are drawn.
    """

    model: str = "llava-hf/llama3-llava-next-8b-hf"
    revision: str | None = None
    dtype: Dtype = "bfloat16"
    device: str = "auto"
    batch_size: int = Field(default=8, ge=1)
    chat_template: Literal["auto"] | TemplateName = "auto"
    prefill_opening: bool = False
    decoding: Decoding = Decoding()


class ServerConfig(_Section):
    """A vision-language model behind an OpenAI-compatible endpoint.

    Attributes:
        base_url: E.g. `http://127.0.0.1:8000/v1`.
        model: Name of the model on that server.
        revision: Anything that tells one state of the server's weights from another; part of the cache key,
            since a server does not say what it runs.
        api_key_env: Name of the environment variable with the key.
        concurrency: Requests in flight.
        timeout_s: Longest wait for a server that sends nothing.
        max_tries: Requests for one answer before the image is given up.
        backoff_s: Wait before the second try; doubled for each further one, and shortened at random.
        max_wait_s: Longest wait between two tries; the run stops if the server asks for more.
        max_requests: Most requests ever sent for this model from one cache; failed ones count.
        max_total_tokens: Most tokens, of prompts and answers, as the server counts them.
        max_cost: Most money, in the currency of the two prices.
        prompt_price: Price of a million prompt tokens.
        completion_price: Price of a million answer tokens.
        temperature: None: not sent.
        top_p: None: not sent.
        top_k: None: not sent; vLLM and others know it, the original API does not.
        max_new_tokens: Longest answer.
        length_field: Name under which the longest answer is sent.
    """

    base_url: str = Field(pattern=r"^https?://")
    model: str = Field(min_length=1)
    revision: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = Field(default=8, ge=1, le=256)
    timeout_s: float = Field(default=120, gt=0)
    max_tries: int = Field(default=6, ge=1)
    backoff_s: float = Field(default=1, ge=0)
    max_wait_s: float = Field(default=60, ge=0)
    max_requests: int | None = Field(default=None, ge=1)
    max_total_tokens: int | None = Field(default=None, ge=1)
    max_cost: float | None = Field(default=None, gt=0)
    prompt_price: float | None = Field(default=None, ge=0)
    completion_price: float | None = Field(default=None, ge=0)
    temperature: float | None = Field(default=0.8, ge=0)
    top_p: float | None = Field(default=0.9, gt=0, le=1)
    top_k: int | None = Field(default=None, ge=1)
    max_new_tokens: int = Field(default=150, ge=1)
    length_field: Literal["max_completion_tokens", "max_tokens"] = "max_tokens"

    @model_validator(mode="after")
    def _a_cost_needs_prices(self) -> Self:
        if self.max_cost is not None and (self.prompt_price is None or self.completion_price is None):
            raise ValueError("max_cost needs prompt_price and completion_price, per million tokens")
        return self


class SimplifyConfig(_Section):
    """A T5 that shortens captions over the budget (Guo et al. 2025, section 2.1).

    Attributes:
        model: Hub name or folder of a T5 with a language modelling head.
        revision: Branch, tag or commit of the hub repository; None: its main branch.
        prefix: What is put before the caption.
        min_tokens: Shortest result, in T5's own tokens.
        max_tokens: Longest result, in T5's own tokens.
        num_beams: Beams of the search.
        max_input_tokens: A longer caption is cut here.
    """

    model: str = "google-t5/t5-large"
    revision: str | None = None
    prefix: str = "simplify: "
    min_tokens: int = Field(default=90, ge=1)
    max_tokens: int = Field(default=120, ge=1)
    num_beams: int = Field(default=4, ge=1)
    max_input_tokens: int = Field(default=512, ge=8)

    @model_validator(mode="after")
    def _the_window_is_open(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(
                f"min_tokens must be at most max_tokens, got {self.min_tokens} and {self.max_tokens}"
            )
        return self


class CaptionConfig(_Section):
    """How to caption.

    Attributes:
        method: `simple` names modality and class; `measured` adds what is measured in the pixels; `empty`
            captions nothing, for training without text; `file` takes the texts of a file; `vision-language`
            and `server` let a model describe the image.
        modality: E.g. `endoscopic`; None takes that of the data set's card.
        max_words: Longest caption.
        file: Captions to take over: `.jsonl` or `.csv` with `text` and `record_id` or `file_name`.
        visual_features: What a model is asked to look at; None: what Table 1 asks for the modality.
        request_template: What a model is asked, with placeholders.
        vision_language: The model in this process.
        server: The model behind an endpoint.
        max_attempts: Draws per image until a caption passes the checks; after that it is quarantined.
        budget: Length in tokens: the text encoder trained on it, by family or by tokenizer; None: no limit.
        simplify: Shorten captions over the budget; None: they are drawn again.
    """

    method: Method = "measured"
    modality: str | None = Field(default=None, min_length=1)
    max_words: int = Field(default=100, ge=5)
    file: Path | None = None
    visual_features: str | None = Field(default=None, min_length=1)
    request_template: Annotated[str, AfterValidator(check_template)] = REQUEST_TEMPLATE
    vision_language: VisionLanguageConfig | None = None
    server: ServerConfig | None = None
    max_attempts: int = Field(default=5, ge=1, le=100)
    budget: Target | TokenBudget | None = None
    simplify: SimplifyConfig | None = None

    @property
    def token_budget(self) -> TokenBudget | None:
        """The budget, with names of families looked up."""
        return TARGETS[self.budget] if isinstance(self.budget, str) else self.budget

    @model_validator(mode="after")
    def _method_and_sections_agree(self) -> Self:
        sections = {
            "vision-language": ("vision_language", self.vision_language),
            "server": ("server", self.server),
            "file": ("file", self.file),
        }
        for method, (name, section) in sections.items():
            if method == self.method and section is None:
                raise ValueError(f"method {method} needs the setting {name}")
            if method != self.method and section is not None:
                raise ValueError(f"{name} has no meaning for method {self.method}; leave it out")
        if self.method == "empty" and self.budget is not None:
            raise ValueError("budget has no meaning for method empty; leave it out")
        return self

    @model_validator(mode="after")
    def _what_is_simplified_has_a_budget(self) -> Self:
        if self.simplify is None:
            return self
        if self.method not in ("file", "server", "vision-language"):
            raise ValueError(f"simplify has no meaning for method {self.method}; leave it out")
        budget = self.token_budget
        if budget is None:
            raise ValueError("simplify needs a budget: it shortens what is over it")
        if self.simplify.min_tokens > budget.max_tokens:
            raise ValueError(
                f"simplify.min_tokens {self.simplify.min_tokens} is over the budget of {budget.max_tokens} "
                "tokens; lower simplify.min_tokens and simplify.max_tokens"
            )
        return self

    def settings_of_method(self) -> dict[str, object]:
        """Return, as JSON, every setting that the text of a caption may depend on.

        The three weight-free methods keep the three settings they always had, so that their finished
        captions stay theirs.
        """
        old = {"method", "modality", "max_words"}
        if self.method in ("empty", "measured", "simple") and self.budget is None:
            return self.model_dump(mode="json", include=old)
        # How fast, how often and for how much: not what.
        speed = {
            "server": {
                "concurrency", "timeout_s", "max_tries", "backoff_s", "max_wait_s", "max_requests",
                "max_total_tokens", "max_cost", "prompt_price", "completion_price", "api_key_env",
            },
            "vision_language": {"batch_size", "device"},
        }  # fmt: skip
        # Of a file of captions its content counts, not where it lies.
        dump = self.model_dump(mode="json", include=CaptionConfig.model_fields.keys() - {"file"})
        for name, fields in speed.items():
            dump[name] = {key: value for key, value in (dump[name] or {}).items() if key not in fields}
        return dump
