"""The demo model before training: its tokenizer, processor and architecture, and how it is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from demo_training_data import IMAGE_TOKENS, PATCH, chat_prompt, judging_question, naming_question
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from adaptvis_plugin.data.demo.furniture import REFERENCES
from adaptvis_plugin.data.demo.objects import OBJECTS
from adaptvis_plugin.data.demo.rows import caption, question, training_pairs
from adaptvis_plugin.data.demo.scenes import RELATIONS, SIZE
from adaptvis_plugin.data.questions import paper_prompt

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
ANSWERS = ("Left", "Right", "On", "Under", "left", "right", "on", "under", "Yes", "No")
# LLaVA-1.5's own template: pictures first, then the text.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% if message['content'] is string %}{{ message['content'] + ' ' }}{% else %}"
    "{% for item in message['content'] if item['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for item in message['content'] if item['type'] == 'text' %}{{ item['text'] + ' ' }}{% endfor %}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def build_processor() -> LlavaProcessor:
    """A byte-level BPE tokenizer that knows the questions' words, with LLaVA's image processor and template."""
    corpus = [wrap(question(n, r)) for n in OBJECTS for r in REFERENCES for wrap in (paper_prompt, chat_prompt)]
    corpus += [chat_prompt(judging_question(caption(n, w, r))) for n, r in training_pairs() for w in RELATIONS]
    corpus += [naming_question(w, r) for w in RELATIONS for r in REFERENCES]
    corpus += [f":{word} {word}" for word in (*ANSWERS, *OBJECTS)] * 50
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[*SPECIAL.values(), "<image>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.replace("<image>", "") for text in corpus), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **SPECIAL,
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )
    for word in ANSWERS:
        assert len(fast.encode(word, add_special_tokens=False)) == 1, word
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(
        image_processor=image_processor,
        tokenizer=fast,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the tower's CLS token, which the "default" strategy drops again
        chat_template=CHAT_TEMPLATE,
    )


def build_model(processor: LlavaProcessor) -> LlavaForConditionalGeneration:
    """LLaVA-1.5's architecture with about two million parameters."""
    tokenizer: Any = processor.tokenizer
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            image_size=SIZE, patch_size=PATCH, hidden_size=128, intermediate_size=384,
            num_hidden_layers=4, num_attention_heads=4, projection_dim=128,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=352, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2048, rms_norm_eps=1e-5,
            initializer_range=0.06,
            **{f"{name}_token_id": value for name, value in ids.items()},
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=IMAGE_TOKENS,
        # LLaVA-1.5 reads the last layer but one, which in a tower trained here would leave the last layer untrained.
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        do_sample=False, max_new_tokens=8, **{f"{k}_token_id": v for k, v in ids.items()}
    )
    return model


def save(model: LlavaForConditionalGeneration, processor: LlavaProcessor, folder: Path) -> None:
    """Write 16-bit weights (the size allowed) and have them loaded as 32-bit floats by default."""
    model.half().save_pretrained(folder)
    processor.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for part in (config, config["text_config"], config["vision_config"]):
        part["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
