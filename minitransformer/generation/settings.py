"""How to decode: the fields of generation_config.json, by transformers' names and with its defaults."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal

from minitransformer.errors import ConfigError, InputError

# Fields that change the result in ways that are not implemented -> the values with which they change nothing.
REFUSED: dict[str, tuple[Any, ...]] = {
    "assistant_early_exit": (None,),
    "constraints": (None,),
    "diversity_penalty": (0, None),
    "dola_layers": (None,),
    "encoder_no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1, None),
    "epsilon_cutoff": (0, None),
    "eta_cutoff": (0, None),
    "exponential_decay_length_penalty": (None,),
    "force_words_ids": (None,),
    "guidance_scale": (1, None),
    "max_time": (None,),
    "num_beam_groups": (1, None),
    "penalty_alpha": (0, None),
    "prompt_lookup_num_tokens": (None,),
    "remove_invalid_values": (False, None),
    "sequence_bias": (None,),
    "token_healing": (False, None),
    "top_h": (None,),
    "typical_p": (1, None),
    "use_mtp": (False, None),
    "watermarking_config": (None,),
}
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p", "top_h", "epsilon_cutoff", "eta_cutoff"}
# Fields that say how something is computed or returned, and change no token.
WITHOUT_EFFECT = {
    "_commit_hash", "_from_model_config", "assistant_confidence_threshold", "assistant_ensemble_weight",
    "assistant_lookbehind", "cache_config", "cache_implementation", "compile_config", "continuous_batching_config",
    "disable_compile", "is_assistant", "low_memory", "max_cache_len", "max_matching_ngram_size",
    "num_assistant_tokens", "num_assistant_tokens_schedule", "output_attentions", "output_hidden_states",
    "output_logits", "output_scores", "prefill_chunk_size", "return_dict_in_generate", "speculation_type",
    "target_lookbehind", "transformers_version",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How to decode. A length counts tokens: of a decoder alone with its prompt, else with the start token."""

    max_length: int | None = None  # None: 20 new tokens
    max_new_tokens: int | None = None  # in place of max_length
    min_length: int = 0  # no end token before
    min_new_tokens: int | None = None  # in place of min_length
    do_sample: bool = False  # draw each token; otherwise take the most probable
    num_beams: int = 1  # how many texts a beam search keeps; 1: no search
    num_return_sequences: int = 1  # for each prompt
    # A beam search ends, if True: when num_beams texts have ended; False: when none that goes on is better than these,
    # at the length it has; "never": nor can be at the greatest length
    early_stopping: bool | Literal["never"] = False
    length_penalty: float = 1.0  # a text's score is its log-probability / length to this power
    temperature: float = 1.0  # divides the logits
    top_k: int = 50  # draw from so many tokens; 0: from all
    top_p: float = 1.0  # draw from the fewest tokens whose probabilities sum to this
    min_p: float | None = None  # draw from tokens that are at least so probable, times the most probable
    repetition_penalty: float = 1.0  # above 1: tokens that are there already become less probable
    no_repeat_ngram_size: int = 0  # no sequence of this many tokens comes twice; 0: any may
    bad_words_ids: tuple[tuple[int, ...], ...] | None = None  # token sequences that do not appear
    suppress_tokens: tuple[int, ...] | None = None  # tokens that do not appear
    begin_suppress_tokens: tuple[int, ...] | None = None  # tokens that do not come first
    forced_bos_token_id: int | None = None  # the token after the start token
    forced_eos_token_id: tuple[int, ...] | None = None  # the token at max_length
    renormalize_logits: bool = False  # after all of these, make the scores log-probabilities again
    stop_strings: tuple[str, ...] | None = None  # a text ends when one of them is in it
    eos_token_id: tuple[int, ...] | None = None  # each of them ends a text
    pad_token_id: int | None = None  # what follows an end; None: the first end token
    bos_token_id: int | None = None
    decoder_start_token_id: int | None = None  # None: bos_token_id
    use_cache: bool = True  # keep keys and values; without them, each step reads the whole text again

    def __post_init__(self) -> None:
        for name in NAMES:
            object.__setattr__(self, name, _frozen(name, getattr(self, name)))
        for name in ("max_new_tokens", "max_length", "num_beams", "num_return_sequences"):
            self._check(name, "a whole number, 1 or more", lambda x: _whole(x) and x >= 1)
        for name in ("min_length", "min_new_tokens", "top_k", "no_repeat_ngram_size"):
            self._check(name, "a whole number, 0 or more", lambda x: _whole(x) and x >= 0)
        for name in ("temperature", "repetition_penalty"):
            way_out = "; for the most probable token, do_sample=False" if name == "temperature" else ""
            self._check(name, f"a number above 0{way_out}", lambda x: _number(x) and 1e-30 < x < 1e30)
        self._check("top_p", "a number above 0, up to 1", lambda x: _number(x) and 0 < x <= 1)
        self._check("min_p", "a number from 0 to 1", lambda x: _number(x) and 0 <= x <= 1)
        self._check("length_penalty", "a number from -100 to 100", lambda x: _number(x) and abs(x) <= 100)
        self._check("early_stopping", "True, False or 'never'", lambda x: isinstance(x, bool) or x == "never")
        for name in ("do_sample", "renormalize_logits", "use_cache"):
            self._check(name, "True or False", lambda x: isinstance(x, bool))
        for name in ("pad_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id"):
            self._check(name, "a token id", _is_id)
        for name in LISTS:
            self._check(name, "token ids", lambda x: all(map(_is_id, x)))
        self._check("bad_words_ids", "lists of token ids", lambda x: all(w and all(map(_is_id, w)) for w in x))
        self._check("stop_strings", "texts", lambda x: x and all(isinstance(s, str) and s for s in x))
        self._check_forced()
        drawn = self.do_sample and self.num_beams == 1  # each time another text
        if not drawn and self.num_return_sequences > self.num_beams:
            raise InputError(
                f"num_return_sequences: got {self.num_return_sequences}, expected at most num_beams={self.num_beams}; "
                f"with do_sample=True and num_beams=1 there can be as many as you like"
            )

    def _check_forced(self) -> None:
        """Raise an InputError for a token that has to come, and may not."""
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            forced = getattr(self, name)
            tokens = set(forced) if isinstance(forced, tuple) else {forced}
            if forced is not None and tokens <= set(self.suppress_tokens or ()):
                raise InputError(f"{name}: got {forced}, which suppress_tokens forbids; take it out of one of the two")

    def _check(self, name: str, expected: str, right: Any) -> None:
        value = getattr(self, name)
        if value is None and type(self).__dataclass_fields__[name].default is None:
            return
        try:
            fits = value is not None and right(value)
        except TypeError:
            fits = False
        if not fits:
            raise InputError(f"{name}: got {value!r}, expected {expected}")


NAMES = tuple(field.name for field in fields(GenerationConfig))
LISTS = ("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens")


def settings(
    files: Mapping[str, Any], given: Mapping[str, Any], *, source: str = "generation_config.json"
) -> GenerationConfig:
    """The fields that a call gives, before those of the checkpoint's files, before the defaults.

    Unknown names, and fields that are not implemented, are refused. What a file says of sampling counts only where
    tokens are drawn.
    """
    if not given.get("do_sample", files.get("do_sample")):
        files = {name: x for name, x in files.items() if name not in SAMPLING}

    for name, value in given.items():
        if name not in NAMES and name not in REFUSED:
            near = ", ".join(get_close_matches(name, NAMES, n=3, cutoff=0.5) or NAMES)
            raise InputError(f"generate: {name!r} is no setting; expected one such as {near}")
        _refuse(name, value, "generate", InputError)
    for name in files.keys() - given.keys():
        _refuse(name, files[name], source, ConfigError)
    chosen = {name: x for name, x in files.items() if name in NAMES and x is not None}
    chosen |= {name: 0 if name == "top_k" and x is None else x for name, x in given.items() if name in NAMES}
    chosen = {name: x for name, x in chosen.items() if x is not None or _default(name) is None}
    for new, whole in (("max_new_tokens", "max_length"), ("min_new_tokens", "min_length")):
        if given.get(whole) is not None and new not in given and chosen.get(new) is not None:
            warnings.warn(f"{whole} has no effect: {source} sets {new}, which goes before it; give {new}", stacklevel=2)
    return GenerationConfig(**chosen)


def from_config(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that an old config.json holds, where there is no generation_config.json."""
    found = {name: x for name, x in raw.items() if name in NAMES or name in REFUSED}
    if raw.get("force_bos_token_to_be_generated"):  # how the first BARTs said it
        found["forced_bos_token_id"] = raw.get("bos_token_id")
    return found


def _refuse(name: str, value: object, where: str, error: type[ConfigError | InputError]) -> None:
    if name in NAMES or name in WITHOUT_EFFECT:
        return
    harmless = REFUSED.get(name, (None,))
    if not any(value is x or (x is not None and value == x) for x in harmless):
        way_out = (
            f"generate(..., {name}={harmless[0]!r}) does without" if name in REFUSED else "take it out of the file"
        )
        raise error(f"{where}: {name} is {value!r:.60}, which is not implemented; {way_out}")


def _frozen(name: str, value: Any) -> Any:
    """Lists as tuples, and one id or one text as a tuple of it, where several may stand."""
    if name in (*LISTS, "stop_strings") and isinstance(value, int | str):
        return (value,)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(tuple(x) if isinstance(x, list) else x for x in value)
    return value


def _default(name: str) -> Any:
    return GenerationConfig.__dataclass_fields__[name].default


def _whole(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)


def _is_id(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and 0 <= x < 2**31


def _number(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool)
