# Copyright 2026 The optimum_pitome authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

"""ALBEF (Li et al., 2107.07651), which transformers does not have, as a model of one's own that merges tokens.

A ViT encodes the image, a BERT of six layers the text, and a multimodal encoder of six layers reads both: its text
tokens attend to the image's. This is written from the paper's description. Of its losses, the contrastive one and that
of matching are here; masked words and the momentum teacher, which are for training on noisy captions, are not.

The last two calls of the file are all that merging needs. They use public names of optimum_pitome only.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import cross_entropy, normalize
from transformers import AutoConfig, AutoModel, BertConfig, BertModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.bert.modeling_bert import BertAttention, BertIntermediate, BertOutput
from transformers.models.vit.modeling_vit import eager_attention_forward
from transformers.utils import ModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from optimum_pitome import MergingLayer, register_architecture, register_reader, take_samples


class AlbefVisionConfig(PreTrainedConfig):
    model_type = "albef_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    image_size: int = 256
    patch_size: int = 16
    num_channels: int = 3
    layer_norm_eps: float = 1e-6
    initializer_range: float = 0.02


class AlbefConfig(PreTrainedConfig):
    """Sizes of the paper by default.

    Args:
        vision_config (`AlbefVisionConfig` or `dict`, *optional*): of the image encoder.
        text_config (`BertConfig` or `dict`, *optional*):
            Of the text encoder, which has `num_hidden_layers`. The multimodal encoder has the same widths.
        num_fusion_layers (`int`): layers of the multimodal encoder.
        projection_dim (`int`): width of the vectors that are searched with.
        temperature (`float`): of the contrastive loss, at the beginning: it is learned.
    """

    model_type = "albef"
    sub_configs = {"vision_config": AlbefVisionConfig, "text_config": BertConfig}

    vision_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    num_fusion_layers: int = 6
    projection_dim: int = 256
    temperature: float = 0.07
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        vision, text = self.vision_config, self.text_config
        if not isinstance(vision, PreTrainedConfig):
            self.vision_config = AlbefVisionConfig(**(vision or {}))
        if not isinstance(text, PreTrainedConfig):
            self.text_config = BertConfig(**{"num_hidden_layers": 6, **(text or {})})
        if self.vision_config.hidden_size != self.text_config.hidden_size:
            raise ValueError(
                f"The image encoder is {self.vision_config.hidden_size} wide, the text encoder "
                f"{self.text_config.hidden_size}. Make both equal: cross-attention reads the image tokens as they are."
            )
        super().__post_init__(**kwargs)


@dataclass
class AlbefOutput(ModelOutput):
    """What `B` pictures with one text each give.

    Attributes:
        loss (`torch.FloatTensor`, *optional*): contrastive loss and loss of matching, with `return_loss=True`.
        logits (`torch.FloatTensor` of shape `(B, 2)`): whether picture and text belong together: no, yes.
        image_embeds, text_embeds (`torch.FloatTensor` of shape `(B, projection_dim)`): of length 1.
    """

    loss: torch.FloatTensor | None = None
    logits: torch.FloatTensor | None = None
    image_embeds: torch.FloatTensor | None = None
    text_embeds: torch.FloatTensor | None = None


class AlbefVisionEmbeddings(nn.Module):
    def __init__(self, config: AlbefVisionConfig):
        super().__init__()
        num_patches = (config.image_size // config.patch_size) ** 2
        self.patch_embeddings = nn.Conv2d(
            config.num_channels, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.hidden_size))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + num_patches, config.hidden_size))

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embeddings(pixel_values).flatten(2).transpose(1, 2)
        cls_token = self.cls_token.expand(len(patches), -1, -1)
        return torch.cat([cls_token, patches], dim=1) + self.position_embeddings


class AlbefVisionAttention(nn.Module):
    def __init__(self, config: AlbefVisionConfig):
        super().__init__()
        self.config = config
        self.is_causal = False
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.projection = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor | None]:
        qkv = self.qkv(hidden_states).unflatten(-1, (3, -1, self.head_dim))
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        scaling = self.head_dim**-0.5
        output, weights = attend(self, *qkv.permute(2, 0, 3, 1, 4), None, scaling=scaling, dropout=0.0, **kwargs)
        return self.projection(output.flatten(2)), weights


class AlbefVisionLayer(GradientCheckpointingLayer):
    def __init__(self, config: AlbefVisionConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = AlbefVisionAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ACT2FN[config.hidden_act]
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        hidden_states = hidden_states + self.attention(self.attention_norm(hidden_states), **kwargs)[0]
        return hidden_states + self.contract(self.activation(self.expand(self.mlp_norm(hidden_states))))


class AlbefPreTrainedModel(PreTrainedModel):
    config: AlbefConfig
    base_model_prefix = "albef"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["AlbefVisionEmbeddings", "AlbefVisionLayer", "AlbefFusionLayer", "BertLayer"]

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AlbefVisionEmbeddings):
            init.trunc_normal_(module.cls_token, std=self.config.initializer_range)
            init.trunc_normal_(module.position_embeddings, std=self.config.initializer_range)
        elif isinstance(module, AlbefForRetrieval):
            init.constant_(module.temperature, self.config.temperature)


class AlbefVisionModel(AlbefPreTrainedModel):
    config: AlbefVisionConfig
    main_input_name = "pixel_values"
    input_modalities = ("image",)
    _can_record_outputs = {"hidden_states": AlbefVisionLayer, "attentions": AlbefVisionAttention}

    def __init__(self, config: AlbefVisionConfig):
        super().__init__(config)
        self.embeddings = AlbefVisionEmbeddings(config)
        self.layers = nn.ModuleList([AlbefVisionLayer(config) for _ in range(config.num_hidden_layers)])
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embeddings

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs) -> BaseModelOutput:
        hidden_states = self.embeddings(pixel_values)
        for layer in self.layers:
            hidden_states = layer(hidden_states, **kwargs)
        return BaseModelOutput(last_hidden_state=self.norm(hidden_states))


class AlbefFusionLayer(GradientCheckpointingLayer):
    """A layer of BERT that attends to the text, then to the image."""

    def __init__(self, config: BertConfig):
        super().__init__()
        self.attention = BertAttention(config)
        self.crossattention = BertAttention(config, is_cross_attention=True)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)

    def forward(self, hidden_states, attention_mask=None, encoder_hidden_states=None, encoder_attention_mask=None):
        hidden_states = self.attention(hidden_states, attention_mask)[0]
        hidden_states = self.crossattention(hidden_states, None, encoder_hidden_states, encoder_attention_mask)[0]
        return self.output(self.intermediate(hidden_states), hidden_states)


class AlbefFusionModel(nn.Module):
    """The multimodal encoder."""

    def __init__(self, config: AlbefConfig):
        super().__init__()
        self.config = config.text_config
        self.layers = nn.ModuleList([AlbefFusionLayer(self.config) for _ in range(config.num_fusion_layers)])

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, T, dim)`): of the text.
            attention_mask (`torch.LongTensor` of shape `(B, T)`, *optional*): of the text.
            encoder_hidden_states (`torch.Tensor` of shape `(B, N, dim)`): of the image.
            encoder_attention_mask (`torch.Tensor`, *optional*): of the image, `(B, N)` or added to the scores.
        """
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        if encoder_attention_mask is not None:
            encoder_attention_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=hidden_states,
                attention_mask=encoder_attention_mask,
                encoder_hidden_states=encoder_hidden_states,
            )
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask, encoder_hidden_states, encoder_attention_mask)
        return hidden_states


class AlbefForRetrieval(AlbefPreTrainedModel):
    """Vectors of pictures and of texts to search with, and a head that says whether a pair belongs together."""

    input_modalities = ("image", "text")

    def __init__(self, config: AlbefConfig):
        super().__init__(config)
        width = config.text_config.hidden_size
        self.vision_model = AlbefVisionModel(config.vision_config)
        self.text_model = BertModel(config.text_config, add_pooling_layer=False)
        self.fusion_model = AlbefFusionModel(config)
        self.vision_projection = nn.Linear(width, config.projection_dim)
        self.text_projection = nn.Linear(width, config.projection_dim)
        self.itm_head = nn.Linear(width, 2)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))
        self.post_init()

    def embed_image(self, image_states: torch.Tensor) -> torch.Tensor:
        """The image encoder's `(B, N, dim)` to vectors `(B, projection_dim)` of length 1."""
        return normalize(self.vision_projection(image_states[:, 0]), dim=-1)

    def embed_text(self, text_states: torch.Tensor) -> torch.Tensor:
        """The text encoder's `(B, T, dim)` to vectors `(B, projection_dim)` of length 1."""
        return normalize(self.text_projection(text_states[:, 0]), dim=-1)

    def match(self, image_states, text_states, attention_mask=None) -> torch.Tensor:
        """Whether the texts belong to the images: logits `(B, 2)`, no and yes.

        Args:
            image_states (`torch.Tensor` of shape `(B, N, dim)`): of the image encoder. Take samples of it with
                [`take_samples`]: then the multimodal encoder reads its merged tokens only.
            text_states (`torch.Tensor` of shape `(B, T, dim)`): of the text encoder.
            attention_mask (`torch.LongTensor` of shape `(B, T)`, *optional*): of the texts.
        """
        fused = self.fusion_model(text_states, attention_mask, encoder_hidden_states=image_states)
        return self.itm_head(fused[:, 0])

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Vectors `(B, projection_dim)` of pictures."""
        return self.embed_image(self.vision_model(pixel_values).last_hidden_state)

    def get_text_features(self, input_ids, attention_mask=None, token_type_ids=None) -> torch.Tensor:
        """Vectors `(B, projection_dim)` of texts."""
        return self.embed_text(self.text_model(input_ids, attention_mask, token_type_ids).last_hidden_state)

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        return_loss: bool = False,
    ) -> AlbefOutput:
        """
        Args:
            pixel_values (`torch.FloatTensor` of shape `(B, 3, image_size, image_size)`): pictures.
            input_ids, attention_mask, token_type_ids (`torch.LongTensor` of shape `(B, T)`): a text for each of them.
            return_loss (`bool`, *optional*, defaults to `False`): whether to compute the loss of training.
        """
        image_states = self.vision_model(pixel_values).last_hidden_state
        text_states = self.text_model(input_ids, attention_mask, token_type_ids).last_hidden_state
        output = AlbefOutput(
            logits=self.match(image_states, text_states, attention_mask),
            image_embeds=self.embed_image(image_states),
            text_embeds=self.embed_text(text_states),
        )
        if return_loss:
            output.loss = self.compute_loss(image_states, text_states, attention_mask)
        return output

    def compute_loss(self, image_states, text_states, attention_mask=None) -> torch.Tensor:
        """The contrastive loss of pairs, and that of matching with the hard negatives of section 3.2: for every
        picture a text, and for every text a picture, which the contrastive similarity takes for right.

        Arguments as those of [`match`].
        """
        similarity = self.embed_image(image_states) @ self.embed_text(text_states).T / self.temperature
        own = torch.arange(len(similarity), device=similarity.device)
        contrastive = (cross_entropy(similarity, own) + cross_entropy(similarity.T, own)) / 2
        chances = [(scores.detach().softmax(-1) + 1e-6).fill_diagonal_(0) for scores in (similarity, similarity.T)]
        wrong_texts, wrong_images = (chance.multinomial(1).flatten() for chance in chances)
        images, texts = torch.cat([own, own, wrong_images]), torch.cat([own, wrong_texts, own])
        mask = None if attention_mask is None else attention_mask[texts]
        logits = self.match(take_samples(image_states, images), text_states[texts], mask)
        belongs = torch.cat([torch.ones_like(own), torch.zeros_like(wrong_texts), torch.zeros_like(wrong_images)])
        return contrastive + cross_entropy(logits, belongs)


AutoConfig.register("albef_vision_model", AlbefVisionConfig)
AutoConfig.register("albef", AlbefConfig)
AutoModel.register(AlbefVisionConfig, AlbefVisionModel)
AutoModel.register(AlbefConfig, AlbefForRetrieval)


class MergingVisionLayer(MergingLayer, AlbefVisionLayer):
    def attention_half(self, hidden_states, **kwargs):
        return hidden_states + self.attention(self.attention_norm(hidden_states), **kwargs)[0]

    def mlp_half(self, hidden_states):
        return hidden_states + self.contract(self.activation(self.expand(self.mlp_norm(hidden_states))))


# FSDP policies and device maps find layers by the name of their class.
MergingVisionLayer.__name__ = "AlbefVisionLayer"
# The text encoder is a BertModel, which can merge already.
register_architecture(
    AlbefVisionModel,
    MergingVisionLayer,
    num_prefix_tokens=1,
    num_tokens=lambda config: 1 + (config.image_size // config.patch_size) ** 2,
)
register_reader(AlbefForRetrieval, "fusion_model", encoder="vision_model")
