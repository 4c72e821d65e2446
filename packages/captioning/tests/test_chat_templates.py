from typing import get_args

import pytest
from jinja2 import Environment
from medgen_captioning.chat_templates import TEMPLATES
from medgen_captioning.config import TemplateName

# The formats that the cards of the LLaVA-NeXT checkpoints give.
EXPECTED = {
    "chatml": (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<image>\nWhat is shown?"
        "<|im_end|>\n<|im_start|>assistant\n"
    ),
    "llama3": (
        "<|start_header_id|>user<|end_header_id|>\n\n<image>\nWhat is shown?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "mistral": "[INST] <image>\nWhat is shown? [/INST]",
    "vicuna": (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER: <image>\nWhat is shown? ASSISTANT:"
    ),
    "yi": (
        "<|im_start|>system\nAnswer the questions.<|im_end|><|im_start|>user\n<image>\nWhat is shown?<|im_end|>"
        "<|im_start|>assistant\n"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_request_is_wrapped_as_the_checkpoint_was_tuned(name: TemplateName) -> None:
    content = [{"type": "image"}, {"type": "text", "text": "What is shown?"}]
    template = Environment(autoescape=False).from_string(TEMPLATES[name])
    wrapped = template.render(messages=[{"role": "user", "content": content}], add_generation_prompt=True)
    assert wrapped == EXPECTED[name]


def test_every_name_of_the_config_has_a_template() -> None:
    assert set(get_args(TemplateName)) == set(TEMPLATES)
