"""HuBERT features from a fairseq checkpoint, for speech units; and the checkpoint as a folder of transformers."""

from pathlib import Path

import torch
from fairseq import checkpoint_utils

from echostream_plugin.config import ConfigError
from echostream_plugin.data.hubert import LayerFeatures


def load_hubert(checkpoint):
    """(model in evaluation mode, its task) of a fairseq checkpoint, a pickle that is read by `unpickling`."""
    if not Path(checkpoint).is_file():
        raise ConfigError(f"{checkpoint}: no such HuBERT checkpoint (mhubert_base_vp_en_es_fr_it3.pt for CVSS-C)")
    print(f"note: {checkpoint} is a pickle; only the classes of fairseq_ext/unpickling.py are read from it")
    models, _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)])
    return models[0].eval(), task


class HubertFeatures(LayerFeatures):
    """From a fairseq checkpoint."""

    def __init__(self, checkpoint, layer: int, device: str = "cpu"):
        model, task = load_hubert(checkpoint)
        layers = len(model.encoder.layers)
        if not 1 <= layer <= layers:
            raise ConfigError(f"{checkpoint}: --layer {layer}, but the model has {layers} layers")
        self.model = model.to(device)
        self.normalize = bool(task.cfg.normalize)
        self.layer, self.device = layer, device

    def frames_of(self, piece: torch.Tensor) -> torch.Tensor:
        return self.model.extract_features(piece, padding_mask=None, mask=False, output_layer=self.layer)[0][0]


def save_for_transformers(checkpoint, folder) -> None:
    """A fairseq checkpoint as config.json and model.safetensors, which run no code when they are read."""
    from transformers import HubertConfig, HubertModel

    source, _ = load_hubert(checkpoint)
    blocks = [list(block) for block in source.feature_extractor.conv_layers]
    convolutions = [block[0] for block in blocks]
    per_frame_norm = len(blocks[-1]) == 4  # conv, dropout, layer norm, GELU; otherwise one group norm, in the first
    encoder, layer, position = source.encoder, source.encoder.layers[0], source.encoder.pos_conv[0]
    config = HubertConfig(
        hidden_size=layer.embedding_dim,
        num_hidden_layers=len(encoder.layers),
        num_attention_heads=layer.self_attn.num_heads,
        intermediate_size=layer.fc1.out_features,
        conv_dim=[conv.out_channels for conv in convolutions],
        conv_kernel=[conv.kernel_size[0] for conv in convolutions],
        conv_stride=[conv.stride[0] for conv in convolutions],
        conv_bias=convolutions[0].bias is not None,
        feat_extract_norm="layer" if per_frame_norm else "group",
        do_stable_layer_norm=bool(encoder.layer_norm_first),
        num_conv_pos_embeddings=position.kernel_size[0],
        num_conv_pos_embedding_groups=position.groups,
        apply_spec_augment=False,
        mask_time_prob=0.0,
    )
    target = HubertModel(config)
    tensors = {name: tensor for key, tensor in source.state_dict().items() if (name := transformers_name(key))}
    missing, unexpected = target.load_state_dict(tensors, strict=False)
    if missing or unexpected:
        raise ConfigError(f"{checkpoint}: not a HuBERT that transformers has: {[*missing, *unexpected][:4]}")
    target.save_pretrained(str(folder))


_RENAMED = (
    ("post_extract_proj.", "feature_projection.projection."),
    ("encoder.pos_conv.0.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    ("encoder.pos_conv.0.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    ("encoder.pos_conv.0.", "encoder.pos_conv_embed.conv."),
    (".self_attn_layer_norm.", ".layer_norm."),
    (".self_attn.", ".attention."),
    (".fc1.", ".feed_forward.intermediate_dense."),
    (".fc2.", ".feed_forward.output_dense."),
)


def transformers_name(key: str) -> str | None:
    """transformers' name of a fairseq HuBERT's tensor; None for what only pre-training uses."""
    if key.startswith(("mask_emb", "final_proj", "label_embs_concat", "target_glu")):
        return None
    if key.startswith("layer_norm."):  # of the convolutions' output
        return f"feature_projection.{key}"
    if key.startswith("feature_extractor."):
        place, rest = key.removeprefix("feature_extractor.conv_layers.").split(".", 1)
        kind = "conv" if rest.startswith("0.") else "layer_norm"
        return f"feature_extractor.conv_layers.{place}.{kind}.{rest.rsplit('.', 1)[-1]}"
    for old, new in _RENAMED:
        key = key.replace(old, new)
    return key
