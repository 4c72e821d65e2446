"""How a request is wrapped for the chat models that speak: the formats of the LLaVA-NeXT checkpoints.

A checkpoint brings its own template, and that one is used. These are for folders that lost it, and for whoever
wants the wording that a checkpoint was tuned with: `llava-hf/llama3-llava-next-8b-hf` (llama3),
`llava-v1.6-mistral-7b-hf` (mistral), `llava-v1.6-vicuna-*-hf` (vicuna), `llava-v1.6-34b-hf` (yi),
`llava-next-72b-hf` and `llava-next-110b-hf` (chatml). Jinja, as in `chat_template.jinja`.
"""

from medgen_captioning.config import TemplateName

# One turn: images first, then the text. An answer that is already begun is left open.
_PARTS = (
    "{%- for part in message['content'] if part['type'] == 'image' -%}{{ '<image>\\n' }}{%- endfor -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
)
_EACH = "{%- for message in messages -%}"
_END = "{%- endfor -%}"
_PROMPTED = "{%- if add_generation_prompt -%}"


def _turns(start: str, end: str, *, system: str = "", answer: str) -> str:
    """Return a template in which every turn is `start`, role, content and `end`."""
    turn = _EACH + "{{ '" + start.replace("ROLE", "' + message['role'] + '") + "' }}" + _PARTS
    head = "{{ '" + system + "' }}" if system else ""
    return head + turn + "{{ '" + end + "' }}" + _END + _PROMPTED + "{{ '" + answer + "' }}{%- endif -%}"


_VICUNA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the human\\'s questions. "
)

TEMPLATES: dict[TemplateName, str] = {
    "chatml": _turns(
        "<|im_start|>ROLE\\n",
        "<|im_end|>\\n",
        system="<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n",
        answer="<|im_start|>assistant\\n",
    ),
    "llama3": _turns(
        "<|start_header_id|>ROLE<|end_header_id|>\\n\\n",
        "<|eot_id|>",
        answer="<|start_header_id|>assistant<|end_header_id|>\\n\\n",
    ),
    "mistral": _EACH
    + "{%- if message['role'] == 'user' -%}{{ '[INST] ' }}"
    + _PARTS
    + "{{ ' [/INST]' }}{%- else -%}{{ ' ' }}"
    + _PARTS
    + "{{ '</s>' }}{%- endif -%}"
    + _END,
    "vicuna": "{{ '"
    + _VICUNA_SYSTEM
    + "' }}"
    + _EACH
    + "{%- if message['role'] == 'user' -%}{{ 'USER: ' }}"
    + _PARTS
    + "{{ ' ' }}{%- else -%}{{ 'ASSISTANT: ' }}"
    + _PARTS
    + "{{ '</s>' }}{%- endif -%}"
    + _END
    + _PROMPTED
    + "{{ 'ASSISTANT:' }}{%- endif -%}",
    "yi": _turns(
        "<|im_start|>ROLE\\n",
        "<|im_end|>",
        system="<|im_start|>system\\nAnswer the questions.<|im_end|>",
        answer="<|im_start|>assistant\\n",
    ),
}
