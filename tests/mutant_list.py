"""Plausible mistakes in the core, one entry each, and the tests that must notice them; run by `tests/mutants.py`.

Source: ours. To add one: copy an entry, keep `old` short, so that it survives edits nearby, and name the fewest and
fastest tests that should fail. An entry whose `old` text is no longer in the source, or there twice, is an error.

Left out are changes that change nothing: the order of keys in attention (softmax does not know it), or the last clip's
surplus frames in the history (nothing reads it any more).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One mistake."""

    name: str
    """`core.what_is_wrong`."""
    file: str
    """Relative to `src/openloopy`."""
    old: str
    """Occurs once in the file."""
    new: str
    tests: tuple[str, ...]
    """Files or node ids for pytest, relative to the checkout."""


LIVE = ("tests/inference/test_live.py",)
LIVE_SOUND = ("tests/media/test_live_sound.py",)
STREAM = ("tests/media/test_stream.py",)
SOUND_FILES = ("tests/media/test_sound_file.py",)
CHANNELS = ("tests/media/test_channels.py",)
VIDEO = ("tests/media/test_video.py",)
FRAME_TIME = ("tests/data/test_frame_time.py",)
DAMAGED_SOUND = ("tests/data/test_damaged_sound.py",)
SCENE = ("tests/inference/test_scene.py",)
JOBS = ("tests/apps/test_jobs.py",)
SERVICE = ("tests/apps/test_service.py",)
ALGEBRA = ("tests/diffusion/test_guidance.py",)
BRANCHES = ("tests/inference/test_guidance_branches.py",)
LOSS = ("tests/diffusion/test_loss.py",)
PREDICTION = ("tests/diffusion/test_prediction.py",)
SAMPLER = ("tests/diffusion/test_sampler.py",)
SCHEDULE = ("tests/diffusion/test_schedule.py",)
SEGMENTS = ("tests/models/test_segments.py",)
PAST = (
    "tests/models/test_loopy.py::test_the_past_is_read_through_the_segments",
    "tests/models/test_loopy.py::test_frames_that_are_missing_in_the_history_are_missing_for_the_reference_net",
)
HISTORY = ("tests/inference/test_history.py",)
SOUND = (
    "tests/inference/test_pipeline.py::test_every_clip_sees_the_latents_before_it_and_the_sound_around_it",
)
TEMPORAL = ("tests/models/test_temporal.py",)
DUAL = ("tests/models/test_temporal.py::test_dual_is_inter_clip_with_motion_then_intra_clip_without",)
ATTENTION = ("tests/models/test_attention.py",)
DENOISER = ("tests/models/test_denoiser.py",)
REFERENCE_NET = ("tests/models/test_reference_net.py",)
AUDIO = ("tests/models/test_audio_projection.py",)
CONFORMER = ("tests/models/test_conformer.py",)
HAMA = ("tests/training/test_hama.py",)
LISTENING = ("tests/training/test_audio.py",)
BANK = ("tests/recipes/test_speech_bank.py",)
KOKORO = ("tests/puppet/test_kokoro.py",)
SPOKEN = ("tests/puppet/test_spoken.py",)
AUGMENT = ("tests/puppet/test_augment.py",)
MOTION = ("tests/puppet/test_motion.py",)
NEW_HEARING = ("tests/training/test_new_hearing.py",)
WINDOWS = ("tests/inference/test_windows.py",)
DENOISE = ("tests/training/test_denoise.py",)
STAGES = ("tests/training/test_stages.py",)
BATCH = ("tests/data/test_batch.py",)
FEATURES = ("tests/training/test_features.py",)
SILENCE = ("tests/parity/test_audio_transformers.py",)
A2L = ("tests/models/test_audio_to_latents.py",)
LAST_FRAME = ("tests/models/test_last_frame.py",)
RIG_CODEC = ("tests/models/test_rig_codec.py",)
CODEC = ("tests/models/test_codec.py",)
UNET = ("tests/models/test_unet.py",)
AHEAD = (
    "tests/inference/test_pipeline.py::test_one_ahead_keeps_the_order_and_makes_one_more_than_was_asked_for",
)
DRAWING = ("tests/rig/test_drawing.py",)
THREAD = (
    "tests/inference/test_pipeline.py::test_beside_a_codec_that_computes_apart_clips_are_sampled_in_one_thread",
)
FULL_FRAME = ("tests/inference/test_full_frame.py",)
FIT = ("tests/rig/test_fit.py",)
OWN = ("tests/rig/test_own.py",)
STATES = ("tests/training/test_state_features.py",)
CONTINUED = ("tests/inference/test_last_frame.py",)

MUTANTS: tuple[Mutant, ...] = (
    # Guidance: the algebra, and what each branch is told.
    Mutant(
        "guidance.sign_of_the_reference_branch",
        "diffusion/guidance.py",
        '"reference": self.reference - self.audio',
        '"reference": self.audio - self.reference',
        ALGEBRA,
    ),
    Mutant(
        "guidance.base_counts_from_the_audio_scale",
        "diffusion/guidance.py",
        '"base": 1.0 - self.reference',
        '"base": 1.0 - self.audio',
        ALGEBRA,
    ),
    Mutant(
        "guidance.weights_sum_to_zero",
        "diffusion/guidance.py",
        '"base": 1.0 - self.reference',
        '"base": -self.reference',
        ALGEBRA,
    ),
    Mutant(
        "guidance.predictions_change_places",
        "diffusion/guidance.py",
        '{"audio": e_audio, "reference": e_ref, "base": e_base}',
        '{"audio": e_audio, "reference": e_base, "base": e_ref}',
        ALGEBRA,
    ),
    Mutant(
        "guidance.branches_of_negative_weight_are_left_out",
        "diffusion/guidance.py",
        "if weight != 0.0",
        "if weight > 0.0",
        ALGEBRA,
    ),
    Mutant(
        "guidance.outputs_change_places",
        "inference/pipeline.py",
        'outputs.get("reference"), outputs.get("base")',
        'outputs.get("base"), outputs.get("reference")',
        BRANCHES,
    ),
    Mutant(
        "guidance.batch_is_cut_in_the_wrong_order",
        "inference/pipeline.py",
        "zip(branches, output.chunk(num)",
        "zip(reversed(branches), output.chunk(num)",
        BRANCHES,
    ),
    Mutant(
        "guidance.audio_branch_hears_nothing",
        "inference/pipeline.py",
        '"audio": lambda: conditions',
        '"audio": conditions.without_audio',
        BRANCHES,
    ),
    Mutant(
        "guidance.reference_branch_hears",
        "inference/pipeline.py",
        '"reference": conditions.without_audio',
        '"reference": lambda: conditions',
        BRANCHES,
    ),
    Mutant(
        "guidance.reference_branch_sees_nothing",
        "inference/pipeline.py",
        '"reference": conditions.without_audio',
        '"reference": conditions.without_reference',
        BRANCHES,
    ),
    Mutant(
        "guidance.base_branch_sees_the_reference",
        "inference/pipeline.py",
        '"base": conditions.without_reference',
        '"base": conditions.without_audio',
        BRANCHES,
    ),
    Mutant(
        "guidance.tokens_stay_without_audio",
        "models/conditions.py",
        "keep_audio=drop, keep_motion_latents=drop, keep_reference=keep",
        "keep_audio=keep, keep_motion_latents=drop, keep_reference=keep",
        BRANCHES,
    ),
    Mutant(
        "guidance.motion_latents_stay_without_audio",
        "models/conditions.py",
        "keep_motion_latents=drop, keep_reference=keep",
        "keep_motion_latents=keep, keep_reference=keep",
        BRANCHES,
    ),
    Mutant(
        "guidance.motion_latents_stay_in_the_base_branch",
        "models/conditions.py",
        "keep_motion_latents=drop, keep_reference=drop",
        "keep_motion_latents=1 - drop, keep_reference=drop",
        BRANCHES,
    ),
    Mutant(
        "guidance.audio_stays_in_the_base_branch",
        "models/conditions.py",
        "keep_audio=drop, keep_motion_latents=drop, keep_reference=drop",
        "keep_audio=1 - drop, keep_motion_latents=drop, keep_reference=drop",
        BRANCHES,
    ),
    Mutant(
        "guidance.reference_tokens_stay",
        "models/conditions.py",
        "self.keep_reference * keep_reference",
        "self.keep_reference",
        BRANCHES,
    ),
    Mutant(
        "guidance.motion_stays_without_the_reference",
        "models/conditions.py",
        "self.keep_motion * keep_reference",
        "self.keep_motion",
        BRANCHES,
    ),
    Mutant(
        "guidance.reference_latents_stay",
        "models/conditions.py",
        "scale_samples(self.reference_latents, keep_reference)",
        "self.reference_latents",
        BRANCHES,
    ),
    Mutant(
        "guidance.tokens_follow_the_motion_latents",
        "models/conditions.py",
        "scale_samples(audio, keep_audio)",
        "scale_samples(audio, keep_motion_latents)",
        DENOISER,
    ),
    Mutant(
        "guidance.motion_latents_follow_the_tokens",
        "models/conditions.py",
        "scale_samples(self.motion_latents, keep_motion_latents)",
        "scale_samples(self.motion_latents, keep_audio)",
        DENOISER,
    ),
    # Segments: which past frames are kept.
    Mutant(
        "segments.offsets_are_one_too_far",
        "models/segments.py",
        "frames = history.shape[1] - 1 - ",
        "frames = history.shape[1] - 2 - ",
        SEGMENTS,
    ),
    Mutant(
        "segments.history_is_read_from_its_oldest_frame",
        "models/segments.py",
        "frames = history.shape[1] - 1 - _kept_offsets(",
        "frames = _kept_offsets(",
        SEGMENTS,
    ),
    Mutant(
        "segments.newest_first",
        "models/segments.py",
        "segment_intervals(config)[::-1]).unbind",
        "segment_intervals(config)).unbind",
        SEGMENTS,
    ),
    Mutant(
        "segments.first_frame_of_each_interval",
        "models/segments.py",
        "(starts + lengths // 2)",
        "(starts + 0 * lengths)",
        SEGMENTS,
    ),
    Mutant(
        "segments.offsets_name_the_first_frame",
        "models/segments.py",
        "[start + length // 2 for",
        "[start for",
        SEGMENTS,
    ),
    Mutant(
        "segments.expand_ratio_is_ignored",
        "models/segments.py",
        "length = config.expand_ratio**i",
        "length = 1",
        SEGMENTS,
    ),
    Mutant(
        "segments.segments_grow_by_addition",
        "models/segments.py",
        "length = config.expand_ratio**i",
        "length = max(1, config.expand_ratio * i)",
        SEGMENTS,
    ),
    Mutant(
        "segments.all_segments_begin_at_the_clip",
        "models/segments.py",
        "        start += length * config.stride\n",
        "",
        SEGMENTS,
    ),
    Mutant(
        "segments.missing_frames_are_not_zeroed",
        "models/segments.py",
        "history[samples, frames] * present[:, :, None, None, None].to(history.dtype), present",
        "history[samples, frames], present",
        SEGMENTS,
    ),
    Mutant(
        "segments.mask_of_the_wrong_frames",
        "models/segments.py",
        "present = mask[samples, frames]",
        "present = mask[:, -frames.shape[1] :]",
        SEGMENTS,
    ),
    Mutant(
        "segments.mean_with_missing_frames",
        "models/segments.py",
        "    history = history * mask[:, :, None, None, None].to(history.dtype)\n",
        "",
        SEGMENTS,
    ),
    Mutant(
        "segments.mean_over_the_whole_interval",
        "models/segments.py",
        "counts[-1].clamp(min=1)",
        "counts[-1].clamp(min=length)",
        SEGMENTS,
    ),
    Mutant(
        "segments.mean_newest_first",
        "models/segments.py",
        "segment_intervals(config)[::-1]:",
        "segment_intervals(config):",
        SEGMENTS,
    ),
    Mutant(
        "segments.random_frame_of_the_next_interval",
        "models/segments.py",
        "(fractions * lengths).long()",
        "(fractions * lengths).ceil().long()",
        SEGMENTS,
    ),
    Mutant(
        "segments.random_frames_without_the_seed",
        "models/segments.py",
        "if fractions is None else fractions.cpu()",
        "",
        SEGMENTS,
    ),
    Mutant(
        "segments.history_mask_is_not_passed_on",
        "models/loopy.py",
        "gather_segments(history, history_mask, ",
        "gather_segments(history, torch.ones_like(history_mask), ",
        PAST,
    ),
    Mutant(
        "segments.motion_mask_is_not_passed_on",
        "models/loopy.py",
        "self.reference_net(reference, motion, motion_mask)",
        "self.reference_net(reference, motion, torch.ones_like(motion_mask))",
        PAST,
    ),
    # History: what one clip leaves to the next.
    Mutant(
        "history.newest_frames_fall_off",
        "inference/pipeline.py",
        "torch.cat([self._latents, latents])[-length:]",
        "torch.cat([self._latents, latents])[:length]",
        HISTORY,
    ),
    Mutant(
        "history.newest_first",
        "inference/pipeline.py",
        "torch.cat([self._latents, latents])[-length:]",
        "torch.cat([latents, self._latents])[:length]",
        HISTORY,
    ),
    Mutant(
        "history.new_frames_are_masked",
        "inference/pipeline.py",
        "self._mask.new_ones(len(latents))",
        "self._mask.new_zeros(len(latents))",
        HISTORY,
    ),
    Mutant(
        "history.mask_one_frame_short",
        "inference/pipeline.py",
        "[self._mask, self._mask.new_ones(len(latents))])[-length:]",
        "[self._mask, self._mask.new_ones(len(latents) - 1)])[-length:]",
        HISTORY,
    ),
    Mutant(
        "history.present_before_the_beginning",
        "inference/pipeline.py",
        "self._mask = torch.zeros(length",
        "self._mask = torch.ones(length",
        HISTORY,
    ),
    Mutant(
        "history.not_zero_before_the_beginning",
        "inference/pipeline.py",
        "self._latents = torch.zeros(length",
        "self._latents = torch.randn(length",
        HISTORY,
    ),
    Mutant(
        "history.is_never_filled",
        "inference/pipeline.py",
        "            history.append(latents)\n",
        "",
        HISTORY,
    ),
    Mutant(
        "history.is_encoded_again",
        "inference/pipeline.py",
        "history.append(latents)",
        "history.append(self.model.codec.encode(self.model.codec.decode(latents, portrait.picture)))",
        HISTORY,
    ),
    Mutant(
        "history.wrong_end_of_the_last_clip_is_dropped",
        "inference/pipeline.py",
        "latents[: window.num_kept]",
        "latents[-window.num_kept :]",
        HISTORY,
    ),
    # Layers along time.
    Mutant(
        "temporal.intra_before_inter",
        "models/temporal.py",
        """\
        x = x + self._as_map(self.inter(self._as_clips(x, num_frames), motion), x)
        if self.intra is None:
            return x
        return x + self._as_map(self.intra(self._as_clips(x, num_frames)), x)
""",
        """\
        if self.intra is not None:
            x = x + self._as_map(self.intra(self._as_clips(x, num_frames)), x)
        return x + self._as_map(self.inter(self._as_clips(x, num_frames), motion), x)
""",
        TEMPORAL,
    ),
    Mutant(
        "temporal.intra_sees_the_motion_frames",
        "models/temporal.py",
        "self.intra(self._as_clips(x, num_frames))",
        "self.intra(self._as_clips(x, num_frames), motion)",
        DUAL,
    ),
    Mutant(
        "temporal.before_the_spatial_transformer",
        "models/denoiser.py",
        """\
            x = attention(x, reference, context)
            return x if temporal is None else temporal(x, num_frames, motion)
""",
        """\
            x = x if temporal is None else temporal(x, num_frames, motion)
            return attention(x, reference, context)
""",
        DENOISER,
    ),
    Mutant(
        "temporal.no_residual",
        "models/temporal.py",
        "x = x + self._as_map(self.inter(",
        "x = self._as_map(self.inter(",
        TEMPORAL,
    ),
    Mutant(
        "temporal.attention_does_not_start_at_zero",
        "models/temporal.py",
        "        nn.init.zeros_(self.attention.to_out[0].weight)\n",
        "",
        TEMPORAL,
    ),
    Mutant(
        "temporal.transformer_does_not_start_at_zero",
        "models/temporal.py",
        "        nn.init.zeros_(self.proj_out.weight)\n",
        "",
        TEMPORAL,
    ),
    Mutant(
        "temporal.values_in_another_order_than_keys",
        "models/temporal.py",
        "torch.cat([earlier.v[rows].to(v.dtype), own_v], dim=-2)",
        "torch.cat([own_v, earlier.v[rows].to(v.dtype)], dim=-2)",
        TEMPORAL,
    ),
    Mutant(
        "temporal.motion_instead_of_the_clip",
        "models/temporal.py",
        """\
            own_k = torch.cat([earlier.k[rows].to(k.dtype), own_k], dim=-2)
            own_v = torch.cat([earlier.v[rows].to(v.dtype), own_v], dim=-2)
""",
        """\
            own_k, own_v = earlier.k[rows].to(k.dtype), earlier.v[rows].to(v.dtype)
""",
        TEMPORAL,
    ),
    Mutant(
        "temporal.hidden_motion_is_seen",
        "models/temporal.py",
        "        if sees:",
        "        if not sees:",
        TEMPORAL,
    ),
    Mutant(
        "temporal.motion_of_another_sample",
        "models/temporal.py",
        "slice(samples.start * num_positions, samples.stop * num_positions)",
        "slice(samples.start, samples.start + (samples.stop - samples.start) * num_positions)",
        TEMPORAL,
    ),
    Mutant(
        "temporal.oldest_frame_has_the_first_embedding",
        "models/temporal.py",
        "self.motion_embedding[len(self.motion_embedding) - num_frames :]",
        "self.motion_embedding[:num_frames]",
        TEMPORAL,
    ),
    Mutant(
        "temporal.motion_without_embedding",
        "models/temporal.py",
        "(normed + embedding[:, None])",
        "normed",
        TEMPORAL,
    ),
    Mutant(
        "temporal.clip_without_embedding",
        "models/temporal.py",
        "self.norm(x) + self.frame_embedding[: x.shape[1], None]",
        "self.norm(x)",
        TEMPORAL,
    ),
    Mutant(
        "temporal.relative_motion_is_normalised_again",
        "models/temporal.py",
        "motion if self.relative_motion else self.inter.norm(motion)",
        "self.inter.norm(motion)",
        TEMPORAL,
    ),
    Mutant(
        "temporal.single_has_both_layers",
        "models/temporal.py",
        'if config.kind == "dual":',
        "if True:",
        TEMPORAL,
    ),
    # Reference: its features, its keys, and who sees them.
    Mutant(
        "reference.values_are_keys",
        "models/attention.py",
        "_for_frames(shared.v[samples], own_v)",
        "_for_frames(shared.k[samples], own_v)",
        ATTENTION,
    ),
    Mutant(
        "reference.keys_replace_the_frames_own",
        "models/attention.py",
        """\
            own_k = torch.cat([own_k, _for_frames(shared.k[samples], own_k)], dim=-2)
            own_v = torch.cat([own_v, _for_frames(shared.v[samples], own_v)], dim=-2)
""",
        """\
            own_k, own_v = _for_frames(shared.k[samples], own_k), _for_frames(shared.v[samples], own_v)
""",
        ATTENTION,
    ),
    Mutant(
        "reference.keys_of_another_sample",
        "models/attention.py",
        "_for_frames(shared.k[samples], own_k)",
        "_for_frames(shared.k[: samples.stop - samples.start], own_k)",
        ATTENTION,
    ),
    Mutant(
        "reference.keys_without_a_scale",
        "models/attention.py",
        "q * q.shape[-1] ** -0.5",
        "q * 1.0",
        ATTENTION,
    ),
    Mutant(
        "reference.seen_where_hidden",
        "models/attention.py",
        "tuple(bool(value) for value in",
        "tuple(not value for value in",
        ATTENTION,
    ),
    Mutant(
        "reference.keys_and_values_change_places",
        "models/denoiser.py",
        "reference_k, reference_v = attention.",
        "reference_v, reference_k = attention.",
        DENOISER,
    ),
    Mutant(
        "reference.motion_is_hidden_with_it",
        "models/denoiser.py",
        "seen_by(conditions.keep_reference), seen_by(conditions.keep_motion)",
        "seen_by(conditions.keep_reference), seen_by(conditions.keep_reference)",
        DENOISER,
    ),
    Mutant(
        "reference.keys_of_the_branches_are_interleaved",
        "models/denoiser.py",
        "x.repeat(branches, *[1] * (x.ndim - 1))",
        "x.repeat_interleave(branches, dim=0)",
        DENOISER,
    ),
    Mutant(
        "reference.cached_keys_are_never_hidden",
        "models/denoiser.py",
        "_shared_keys(layer.reference_k, layer.reference_v, reference, branches)",
        "_shared_keys(layer.reference_k, layer.reference_v, None, branches)",
        DENOISER,
    ),
    Mutant(
        "reference.cached_motion_is_never_hidden",
        "models/denoiser.py",
        "_shared_keys(layer.motion_k, layer.motion_v, motion, branches)",
        "_shared_keys(layer.motion_k, layer.motion_v, None, branches)",
        DENOISER,
    ),
    Mutant(
        "reference.uncached_motion_is_never_hidden",
        "models/denoiser.py",
        "SharedTokens(_repeated(layer.motion, branches), motion)",
        "SharedTokens(_repeated(layer.motion, branches), None)",
        DENOISER,
    ),
    Mutant(
        "reference.latents_before_the_noisy_ones",
        "models/denoiser.py",
        "torch.cat([x_t, reference], dim=2)",
        "torch.cat([reference, x_t], dim=2)",
        DENOISER,
    ),
    Mutant(
        "reference.missing_frames_look_like_the_portrait",
        "models/reference_net.py",
        "tokens.new_zeros(batch * num_motion, *tokens.shape[1:])",
        "tokens[:batch].repeat_interleave(num_motion, dim=0)",
        REFERENCE_NET,
    ),
    Mutant(
        "reference.tokens_are_not_normalised",
        "models/reference_net.py",
        "LayerFeatures(normed[:batch]",
        "LayerFeatures(tokens[:batch]",
        REFERENCE_NET,
    ),
    Mutant(
        "reference.motion_features_of_self_attention",
        "models/reference_net.py",
        "features.append((to_tokens(x), normed))",
        "features.append((normed, normed))",
        REFERENCE_NET,
    ),
    Mutant(
        "reference.motion_relative_to_another_portrait",
        "models/reference_net.py",
        "present // max(num_motion, 1)",
        "present % batch",
        REFERENCE_NET,
    ),
    Mutant(
        "reference.relative_motion_has_the_wrong_sign",
        "models/reference_net.py",
        "even[batch:] - even[portrait_of]",
        "even[portrait_of] - even[batch:]",
        REFERENCE_NET,
    ),
    Mutant(
        "reference.relative_motion_is_not_normalised",
        "models/reference_net.py",
        "even = F.layer_norm(tokens, tokens.shape[-1:])",
        "even = tokens",
        REFERENCE_NET,
    ),
    # Diffusion: schedule, prediction, sampler, loss.
    Mutant(
        "ddim.roots_are_not_squared",
        "diffusion/schedule.py",
        "dtype=torch.float64) ** 2",
        "dtype=torch.float64)",
        SCHEDULE,
    ),
    Mutant(
        "ddim.zero_terminal_snr_moves_the_start",
        "diffusion/schedule.py",
        "(root - last) * first / (first - last)",
        "(root - last) / (first - last)",
        SCHEDULE,
    ),
    Mutant(
        "ddim.zero_terminal_snr_of_powers",
        "diffusion/schedule.py",
        "root = alpha_bar.sqrt()",
        "root = alpha_bar",
        (*SCHEDULE, "tests/parity/test_ddim_diffusers.py::test_alpha_bars"),
    ),
    Mutant(
        "ddim.amplitude_of_noise_is_its_power",
        "diffusion/prediction.py",
        "(1 - alpha_bar).sqrt().to",
        "(1 - alpha_bar).to",
        PREDICTION,
    ),
    Mutant(
        "ddim.target_of_v_has_the_wrong_sign",
        "diffusion/prediction.py",
        "signal * eps - noise * x_0",
        "noise * x_0 - signal * eps",
        PREDICTION,
    ),
    Mutant(
        "ddim.x_0_from_v_has_the_wrong_sign",
        "diffusion/prediction.py",
        "signal * x_t - noise * output",
        "signal * x_t + noise * output",
        PREDICTION,
    ),
    Mutant(
        "ddim.eps_from_v_has_the_wrong_sign",
        "diffusion/prediction.py",
        "signal * output + noise * x_t",
        "signal * output - noise * x_t",
        PREDICTION,
    ),
    Mutant(
        "ddim.x_0_from_eps_is_not_scaled",
        "diffusion/prediction.py",
        "(x_t - noise * output) / signal",
        "x_t - noise * output",
        PREDICTION,
    ),
    Mutant(
        "ddim.signal_and_noise_change_places",
        "diffusion/sampler.py",
        "alpha_bar_next.sqrt() * x_0 + (1 - alpha_bar_next).sqrt() * eps",
        "(1 - alpha_bar_next).sqrt() * x_0 + alpha_bar_next.sqrt() * eps",
        SAMPLER,
    ),
    Mutant(
        "ddim.leading_offset_is_forgotten",
        "diffusion/sampler.py",
        "i * stride + LEADING_OFFSET",
        "i * stride",
        SAMPLER,
    ),
    Mutant(
        "ddim.cleanest_step_first",
        "diffusion/sampler.py",
        "for i in reversed(range(config.steps))",
        "for i in range(config.steps)",
        SAMPLER,
    ),
    Mutant(
        "ddim.trailing_misses_the_last_timestep",
        "diffusion/sampler.py",
        "i * total / config.steps) - 1",
        "i * total / config.steps) - 2",
        SAMPLER,
    ),
    Mutant(
        "ddim.trailing_ends_at_timestep_0",
        "diffusion/sampler.py",
        "else torch.ones_like(levels[0])",
        "else levels[0]",
        SAMPLER,
    ),
    Mutant(
        "ddim.leading_ends_without_noise",
        "diffusion/sampler.py",
        'end = levels[0] if config.spacing == "leading" else',
        "end =",
        SAMPLER,
    ),
    Mutant(
        "ddim.noise_level_of_the_next_step",
        "diffusion/sampler.py",
        "eps = to_eps(prediction, output, x_t, levels[t])",
        "eps = to_eps(prediction, output, x_t, end if t_next is None else levels[t_next])",
        SAMPLER,
    ),
    Mutant(
        "loss.region_map_is_not_normalised",
        "diffusion/loss.py",
        "error * _normalised(region_weight)",
        "error * region_weight",
        LOSS,
    ),
    Mutant(
        "loss.region_map_is_normalised_over_the_batch",
        "diffusion/loss.py",
        "range(1, region_weight.ndim)",
        "range(0, region_weight.ndim)",
        LOSS,
    ),
    Mutant(
        "loss.region_map_is_normalised_per_frame",
        "diffusion/loss.py",
        "range(1, region_weight.ndim)",
        "range(2, region_weight.ndim)",
        LOSS,
    ),
    Mutant(
        "loss.mean_over_the_sum_of_weights",
        "diffusion/loss.py",
        "error.flatten(1).mean(dim=1)).mean()",
        "error.flatten(1).mean(dim=1)).sum() / sample_weight.sum()",
        LOSS,
    ),
    Mutant(
        "loss.min_snr_of_v_without_its_denominator",
        "diffusion/loss.py",
        "torch.minimum(alpha_bar, gamma * (1 - alpha_bar))",
        "(alpha_bar / (1 - alpha_bar)).clamp(max=gamma)",
        LOSS,
    ),
    Mutant(
        "loss.min_snr_of_epsilon_is_not_clamped",
        "diffusion/loss.py",
        ".clamp(max=1.0)",
        "",
        LOSS,
    ),
    Mutant(
        "loss.max_snr",
        "diffusion/loss.py",
        ".clamp(max=gamma)",
        ".clamp(min=gamma)",
        LOSS,
    ),
    # Audio: the frames around each frame.
    Mutant(
        "audio.newest_neighbour_first",
        "models/audio_projection.py",
        "x.unfold(1, self.config.window, 1).transpose(2, 3)",
        "x.unfold(1, self.config.window, 1).transpose(2, 3).flip(2)",
        AUDIO,
    ),
    Mutant(
        "audio.neighbours_without_their_places",
        "models/audio_projection.py",
        "windows + self.window_embedding",
        "windows",
        AUDIO,
    ),
    Mutant(
        "audio.frame_stands_for_its_neighbours",
        "models/audio_projection.py",
        "windows = x.unfold(1, self.config.window, 1).transpose(2, 3)",
        "windows = x[:, self.config.margin : -self.config.margin, None].expand(-1, -1, self.config.window, -1)",
        AUDIO,
    ),
    Mutant(
        "audio.layers_are_not_normalised",
        "models/audio_projection.py",
        "self.norm(hidden_states.flatten(2).to(self.norm.weight.dtype))",
        "hidden_states.flatten(2).to(self.norm.weight.dtype)",
        AUDIO,
    ),
    Mutant(
        "audio.motion_latents_are_ignored",
        "models/denoiser.py",
        "if conditions.motion_latents is not None:",
        "if False:",
        DENOISER,
    ),
    Mutant(
        "audio.motion_latents_are_activated_alone",
        "models/denoiser.py",
        "embedding + conditions.motion_latents",
        "embedding + F.silu(conditions.motion_latents)",
        DENOISER,
    ),
    Mutant(
        "audio.fresh_layers_are_not_silent",
        "models/denoiser.py",
        "            nn.init.zeros_(block.attn2.to_out[0].weight)\n",
        "",
        DENOISER,
    ),
    Mutant(
        "audio.window_begins_at_the_clip",
        "inference/pipeline.py",
        "window.start_frame - margin",
        "window.start_frame",
        SOUND,
    ),
    Mutant(
        "audio.last_clip_is_shorter",
        "inference/windows.py",
        "min(clip_frames, total_frames - start)",
        "clip_frames",
        WINDOWS,
    ),
    # Training: what the denoiser is told. Each of these, and all of them at once, once went unnoticed.
    Mutant(
        "training.motion_frames_never_masked",
        "training/denoise.py",
        "draws.keep(dropout.motion_frames)",
        "draws.keep(0.0)",
        DENOISE,
    ),
    Mutant(
        "training.motion_frames_masked_one_by_one",
        "training/denoise.py",
        "draws.keep(dropout.motion_frames).to(device)[:, None]",
        "(draws.uniform(batch.history_mask.shape[1]) >= dropout.motion_frames).float().to(device)",
        DENOISE,
    ),
    Mutant(
        "training.masks_inverted",
        "training/denoise.py",
        "(self.uniform() >= rate)",
        "(self.uniform() < rate)",
        DENOISE,
    ),
    Mutant(
        "training.sound_never_dropped",
        "training/denoise.py",
        "keep_audio=kept.audio",
        "keep_audio=ones",
        DENOISE,
    ),
    Mutant(
        "training.motion_latents_never_dropped",
        "training/denoise.py",
        "keep_motion_latents=kept.motion_latents",
        "keep_motion_latents=ones",
        DENOISE,
    ),
    Mutant(
        "training.reference_never_dropped",
        "training/denoise.py",
        "keep_reference=kept.reference",
        "keep_reference=ones",
        DENOISE,
    ),
    Mutant(
        "training.dropout_inverted",
        "training/denoise.py",
        "audio=1.0 - (without_sound + nothing + audio)",
        "audio=0.0 + (without_sound + nothing + audio)",
        DENOISE,
    ),
    Mutant(
        "training.sound_and_motion_latents_swapped",
        "training/denoise.py",
        "keep_audio=kept.audio, keep_motion_latents=kept.motion_latents",
        "keep_audio=kept.motion_latents, keep_motion_latents=kept.audio",
        DENOISE,
    ),
    Mutant(
        "training.base_branch_keeps_motion_latents",
        "training/denoise.py",
        "1.0 - (without_sound + nothing + motion_latents)",
        "1.0 - (without_sound + motion_latents)",
        DENOISE,
    ),
    Mutant(
        "training.base_branch_keeps_the_reference",
        "training/denoise.py",
        "reference=1.0 - (nothing + reference)",
        "reference=1.0 - reference",
        DENOISE,
    ),
    Mutant(
        "training.cases_drawn_for_the_whole_batch",
        "training/denoise.py",
        "torch.bucketize(draws.uniform(), edges, right=True)",
        "torch.bucketize(draws.uniform()[:1].expand(draws._samples.stop - draws._samples.start), edges, right=True)",
        DENOISE,
    ),
    Mutant(
        "training.stage_1_never_drops",
        "training/denoise.py",
        "keep = draw_kept(config.dropout, draws).reference",
        "keep = torch.ones(b)",
        DENOISE,
    ),
    Mutant(
        "training.no_noise_on_motion_frames",
        "training/denoise.py",
        "if dropout.motion_noise_max:",
        "if False:",
        DENOISE,
    ),
    Mutant(
        "training.noise_always_at_its_maximum",
        "training/denoise.py",
        "draws.uniform(1, 1, 1, 1).to(device) * dropout.motion_noise_max",
        "dropout.motion_noise_max",
        DENOISE,
    ),
    Mutant(
        "training.noise_the_same_on_all_motion_frames",
        "training/denoise.py",
        "draws.normal(*history.shape[1:])",
        "draws.normal(1, *history.shape[2:])",
        DENOISE,
    ),
    Mutant(
        "training.regions_do_not_count",
        "training/denoise.py",
        "denoising_loss(prediction, wanted, weight, region)",
        "denoising_loss(prediction, wanted, weight)",
        DENOISE,
    ),
    Mutant(
        "training.motion_gradient_inverted",
        "training/denoise.py",
        'config.motion_gradient == "full"',
        'config.motion_gradient == "none"',
        DENOISE,
    ),
    Mutant(
        "training.no_gradient_for_the_reference_either",
        "training/denoise.py",
        "reference=a.reference, motion=b.motion",
        "reference=b.reference, motion=b.motion",
        DENOISE,
    ),
    Mutant(
        "training.audio_to_latents_always_hears",
        "training/denoise.py",
        "choice = draws.integers(NUM_MOTION_CONDITIONS)",
        "choice = 0 * draws.integers(NUM_MOTION_CONDITIONS)",
        DENOISE,
    ),
    Mutant(
        "training.one_motion_condition_never_drawn",
        "training/denoise.py",
        "NUM_MOTION_CONDITIONS = 4",
        "NUM_MOTION_CONDITIONS = 3",
        DENOISE,
    ),
    Mutant(
        "training.one_motion_condition_for_the_whole_batch",
        "training/denoise.py",
        "draws.integers(NUM_MOTION_CONDITIONS).to(tokens.device)",
        "draws.integers(NUM_MOTION_CONDITIONS)[:1].expand(len(tokens)).to(tokens.device)",
        DENOISE,
    ),
    Mutant(
        "training.other_noise_without_audio_to_latents",
        "training/denoise.py",
        "choice = draws.integers",
        "choice = network.a2l and draws.integers",
        DENOISE,
    ),
    Mutant(
        "training.landmarks_of_the_crop",
        "training/denoise.py",
        "relative_landmarks(batch.points68, batch.reference_points68)",
        "batch.points68.flatten(2)",
        DENOISE,
    ),
    Mutant(
        "training.head_variance_is_the_expression_s",
        "training/denoise.py",
        "HeadVariance(batch.head_motion_variance)",
        "HeadVariance(batch.expression_variance)",
        DENOISE,
    ),
    Mutant(
        "training.last_frames_are_the_oldest",
        "training/denoise.py",
        "network.last_frames(batch.reference, history, present)",
        "network.last_frames(batch.reference, history.flip(1), present)",
        DENOISE,
    ),
    Mutant(
        "training.last_frames_not_masked",
        "training/denoise.py",
        "network.last_frames(batch.reference, history, present)",
        "network.last_frames(batch.reference, history, batch.history_mask)",
        DENOISE,
    ),
    Mutant(
        "training.last_frames_without_noise",
        "training/denoise.py",
        "network.last_frames(batch.reference, history, present)",
        "network.last_frames(batch.reference, batch.history, present)",
        DENOISE,
    ),
    Mutant(
        "training.cleaner_timesteps_more_often",
        "training/denoise.py",
        "** (1 / power)",
        "** power",
        STAGES,
    ),
    Mutant(
        "training.motion_frames_stay_without_the_reference",
        "models/conditions.py",
        "keep_motion=self.keep_motion * keep_reference",
        "keep_motion=self.keep_motion",
        DENOISE,
    ),
    Mutant(
        "training.portrait_at_the_input_stays_without_the_reference",
        "models/conditions.py",
        "scale_samples(self.reference_latents, keep_reference)",
        "self.reference_latents",
        DENOISE,
    ),
    Mutant(
        "training.last_frame_stays_without_the_reference",
        "models/conditions.py",
        "scale_samples(self.last_frames, keep_reference)",
        "self.last_frames",
        DENOISE,
    ),
    # Batches: what belongs together.
    Mutant(
        "batch.beginnings_by_chance_only",
        "data/batch.py",
        "start = 0 if is_start else int(",
        "start = int(",
        BATCH,
    ),
    Mutant(
        "batch.sound_begins_at_the_margin",
        "data/batch.py",
        "rows[start + AUDIO_MARGIN : stop + AUDIO_MARGIN]",
        "rows[start:stop]",
        FEATURES,
    ),
    Mutant(
        "batch.reference_landmarks_of_another_frame",
        "data/batch.py",
        "all_points[reference]",
        "all_points[start]",
        BATCH,
    ),
    Mutant(
        "batch.history_holds_the_clip_s_first_frame",
        "data/batch.py",
        "history=pad_rows(latents, start - m, start)",
        "history=pad_rows(latents, start - m + 1, start + 1)",
        BATCH,
    ),
    Mutant(
        "batch.footage_teaches_all_parts",
        "data/batch.py",
        "(taught | (not cache.records[i].is_footage))",
        "(taught | True)",
        STATES,
    ),
    Mutant(
        "batch.puppets_teach_what_footage_may",
        "data/batch.py",
        "(taught | (not cache.records[i].is_footage))",
        "taught",
        STATES,
    ),
    Mutant(
        "batch.stage_1_learns_what_is_not_known",
        "data/batch.py",
        "weights if seen is None else weights * seen)",
        "weights)",
        STATES,
    ),
    Mutant(
        "batch.mask_lacks_the_first_frame",
        "data/batch.py",
        "np.arange(start - m, start) >= 0",
        "np.arange(start - m, start) > 0",
        BATCH,
    ),
    Mutant(
        "batch.features_end_with_the_clip",
        "training/features.py",
        "window(-AUDIO_MARGIN, len(frames) + 2 * AUDIO_MARGIN)",
        "window(0, len(frames) + 2 * AUDIO_MARGIN)",
        FEATURES,
    ),
    # Sound: silence beyond its ends.
    Mutant(
        "sound.begins_with_the_silence",
        "models/audio_encoder.py",
        "offset = max(-begin, 0) * SAMPLES_PER_FRAME",
        "offset = 0",
        SILENCE,
    ),
    Mutant(
        "sound.chunks_begin_with_their_context",
        "models/audio_encoder.py",
        "[0, first - begin :]",
        "[0, 0:]",
        SILENCE,
    ),
    Mutant(
        "sound.no_silence_after_the_end",
        "models/audio_encoder.py",
        "self.num_frames + SILENCE_FRAMES - 1) + SILENCE_FRAMES",
        "self.num_frames - 1) + SILENCE_FRAMES",
        SILENCE,
    ),
    # Sampling: how lively each part of the face is.
    Mutant(
        "pipeline.part_temperatures_ignored",
        "inference/pipeline.py",
        "torch.tensor(self.part_temperatures or 1.0)",
        "1.0",
        ("tests/inference/test_pipeline.py",),
    ),
    Mutant(
        "pipeline.temperature_only_of_parts",
        "inference/pipeline.py",
        "return self.temperature * torch",
        "return torch",
        ("tests/inference/test_pipeline.py",),
    ),
    # wav2vec 2.0.
    Mutant(
        "wav2vec2.stable_like_base",
        "models/wav2vec2.py",
        "x = self.dropout(x if self.is_stable else self.layer_norm(x))",
        "x = self.dropout(self.layer_norm(x))",
        SILENCE,
    ),
    Mutant(
        "wav2vec2.odd_kernels_shift",
        "models/wav2vec2.py",
        "padding=kernel // 2,",
        "padding=(kernel - 1) // 2 + 1,",
        SILENCE,
    ),
    Mutant(
        "wav2vec2.drops_attention_in_use",
        "models/wav2vec2.py",
        "self.dropout if self.training else 0.0",
        "self.dropout",
        SILENCE,
    ),
    Mutant(
        "wav2vec2.heads_in_other_order",
        "models/wav2vec2.py",
        '"b s (h d) -> b h s d"',
        '"b s (d h) -> b h s d"',
        SILENCE,
    ),
    Mutant(
        "wav2vec2.old_weight_norm_unknown",
        "models/wav2vec2.py",
        '".weight_g", ".parametrizations.weight.original0"',
        '".weight_g", ".weight_g"',
        SILENCE,
    ),
    # Audio-to-latents: conditions that can be told apart.
    Mutant(
        "a2l.query_not_normalised",
        "models/audio_to_latents.py",
        "query = self.query_norm(query)",
        "query = query",
        A2L,
    ),
    Mutant(
        "a2l.temperature_ignored",
        "models/audio_to_latents.py",
        "torch.exp(-self.log_temperature)",
        "torch.exp(0 * self.log_temperature)",
        A2L,
    ),
    Mutant(
        "a2l.temperature_inverted",
        "models/audio_to_latents.py",
        "torch.exp(-self.log_temperature)",
        "torch.exp(self.log_temperature)",
        A2L,
    ),
    Mutant(
        "a2l.landmarks_where_they_are",
        "models/audio_to_latents.py",
        "(points - portrait[:, None])",
        "points",
        A2L,
    ),
    Mutant(
        "a2l.one_eye_is_the_unit",
        "models/audio_to_latents.py",
        "OUTER_EYE_CORNERS = (36, 45)",
        "OUTER_EYE_CORNERS = (36, 39)",
        A2L,
    ),
    Mutant(
        "a2l.variances_not_on_a_log_scale",
        "models/audio_to_latents.py",
        "(variance + VARIANCE_FLOOR).log()",
        "(variance + VARIANCE_FLOOR)",
        A2L,
    ),
    Mutant(
        "a2l.head_asks_as_expression_does",
        "models/audio_to_latents.py",
        "self.head_query(scaled_log_variance",
        "self.expression_query(scaled_log_variance",
        A2L,
    ),
    Mutant(
        "a2l.drawn_conditions_all_of_one_kind",
        "models/audio_to_latents.py",
        "torch.stack(queries)[condition.choice,",
        "torch.stack(queries)[condition.choice * 0,",
        A2L,
    ),
    # Going on from the last frame.
    Mutant(
        "last_frames.frames_of_other_samples",
        "models/denoiser.py",
        "last.repeat_interleave(num_frames, dim=0)",
        "last.repeat(num_frames, 1, 1, 1)",
        LAST_FRAME,
    ),
    Mutant(
        "last_frames.changes_a_fresh_model",
        "models/denoiser.py",
        "nn.init.zeros_(self.last_frames_in.weight)",
        "nn.init.normal_(self.last_frames_in.weight)",
        LAST_FRAME,
    ),
    Mutant(
        "last_frames.none_looks_like_the_portrait",
        "models/loopy.py",
        "torch.ones_like(newest[:, :1])",
        "torch.zeros_like(newest[:, :1])",
        LAST_FRAME,
    ),
    Mutant(
        "last_frames.generation_gives_the_oldest",
        "inference/pipeline.py",
        "loopy.last_frames(latents, past.to(dtype), past_mask)",
        "loopy.last_frames(latents, past.flip(1).to(dtype), past_mask)",
        CONTINUED,
    ),
    Mutant(
        "last_frames.not_less_the_portrait",
        "models/loopy.py",
        "torch.cat([newest - reference, change",
        "torch.cat([newest, change",
        LAST_FRAME,
    ),
    Mutant(
        "last_frames.change_of_what_is_missing",
        "models/loopy.py",
        "scale_samples(newest - before, mask[:, -2])",
        "newest - before",
        LAST_FRAME,
    ),
    Mutant(
        "last_frames.kept_without_the_portrait",
        "models/denoiser.py",
        "newest = conditions.reference_latents + newest",
        "newest = newest",
        LAST_FRAME,
    ),
    Mutant(
        "training.noise_of_one_size_for_all",
        "training/denoise.py",
        "* step_variance.to(device).sqrt()",
        "",
        DENOISE,
    ),
    Mutant(
        "sampler.second_order_goes_the_whole_way",
        "diffusion/sampler.py",
        "(now - then) / (2 * (last - now))",
        "(now - then) / (last - now)",
        SAMPLER,
    ),
    Mutant(
        "sampler.angles_of_the_noise_alone",
        "diffusion/sampler.py",
        "torch.atan2((1 - levels).sqrt(), levels.sqrt())",
        "1 - levels",
        SAMPLER,
    ),
    Mutant(
        "rig_codec.states_not_divided_by_their_scale",
        "models/rig_codec.py",
        "to_tokens((states - _array(self.state_mean)) / _array(self.state_scale))",
        "to_tokens((states - _array(self.state_mean)) * _array(self.state_scale))",
        RIG_CODEC,
    ),
    Mutant(
        "rig_codec.shape_without_bounds",
        "models/rig_codec.py",
        "np.clip(value, -MAX_DEVIATION, MAX_DEVIATION)",
        "value",
        RIG_CODEC,
    ),
    Mutant(
        "rig_codec.reference_with_its_own_pose",
        "models/rig_codec.py",
        "        own[:, HEAD] = 0\n",
        "",
        RIG_CODEC,
    ),
    Mutant(
        "rig_codec.own_state_without_bounds",
        "models/rig_codec.py",
        "np.clip(deviation, -MAX_DEVIATION, MAX_DEVIATION)",
        "deviation",
        RIG_CODEC,
    ),
    Mutant(
        "rig_codec.pose_of_zero_looks_ahead",
        "models/rig_codec.py",
        "states[:, HEAD] += np.array(",
        "states[:, HEAD] += 0 * np.array(",
        RIG_CODEC,
    ),
    Mutant(
        "rig_codec.open_lips_are_thick",
        "models/rig_codec.py",
        "axis=-1) - gap))",
        "axis=-1)))",
        RIG_CODEC,
    ),
    Mutant(
        "rig_codec.middle_of_nothing",
        "models/rig_codec.py",
        "moved[:, HEAD].mean(0)",
        "moved[:, HEAD][0]",
        RIG_CODEC,
    ),
    Mutant(
        "codec.pixels_not_rounded",
        "models/codec.py",
        "((pixels + 1) * 127.5).round()",
        "((pixels + 1) * 127.5)",
        CODEC,
    ),
    Mutant(
        "codec.latents_not_scaled_back",
        "models/codec.py",
        "self.vae.decode(latents / self.scale)",
        "self.vae.decode(latents)",
        CODEC,
    ),
    Mutant(
        "codec.other_lists_of_states_pass",
        "models/codec.py",
        "    RigCodec.check_settings(settings, path)\n",
        "",
        CODEC,
    ),
    Mutant(
        "pipeline.ahead_by_none",
        "inference/pipeline.py",
        "            waiting = pool.submit(next, items, None)\n            yield item\n",
        "            yield item\n            waiting = pool.submit(next, items, None)\n",
        AHEAD,
    ),
    Mutant(
        "pipeline.sampled_in_all_threads",
        "inference/pipeline.py",
        "torch.set_num_threads(1)",
        "torch.set_num_threads(before)",
        THREAD,
    ),
    Mutant(
        "drawing.last_come_first_shown",
        "rig/drawing.py",
        "        while waiting:\n            yield waiting.popleft().result()",
        "        while waiting:\n            yield waiting.pop().result()",
        DRAWING,
    ),
    Mutant(
        "drawing.lost_frames_stay_lost",
        "rig/drawing.py",
        "                process.close()\n                process = None\n",
        "                pass\n",
        DRAWING,
    ),
    Mutant(
        "drawing.processes_outlive_it",
        "rig/drawing.py",
        "            if (process := self._idle.get()) is not None:\n                process.close()",
        "            self._idle.get()",
        DRAWING,
    ),
    Mutant(
        "full_frame.seam_on_all_sides",
        "inference/full_frame.py",
        '"right": self.x0 + self.size_px < width',
        '"right": True',
        FULL_FRAME,
    ),
    Mutant(
        "full_frame.square_a_pixel_off",
        "inference/full_frame.py",
        "slice(left - full.x0, right - full.x0)",
        "slice(left - full.x0 - 1, right - full.x0 - 1)",
        FULL_FRAME,
    ),
    Mutant(
        "full_frame.face_not_reduced",
        "inference/full_frame.py",
        "face.mesh * scales",
        "face.mesh * 1.0",
        FULL_FRAME,
    ),
    Mutant(
        "full_frame.no_seam",
        "inference/full_frame.py",
        "SEAM_SHARE * size_px)",
        "0 * size_px)",
        FULL_FRAME,
    ),
    Mutant(
        "full_frame.frames_leave_traces",
        "inference/full_frame.py",
        "whole = self._rgb.copy()",
        "whole = self._rgb",
        FULL_FRAME,
    ),
    Mutant(
        "states.scales_of_absolute_poses",
        "training/state_features.py",
        "states.append(about_middle(known.values))",
        "states.append(known.values)",
        STATES,
    ),
    Mutant(
        "states.latents_of_absolute_poses",
        "training/state_features.py",
        "values = about_middle(known.values)",
        "values = known.values.copy()",
        STATES,
    ),
    Mutant(
        "states.scale_of_zero",
        "training/state_features.py",
        ".clamp(min=SMALLEST_SCALE)",
        "",
        STATES,
    ),
    Mutant(
        "states.resumed_from_the_start",
        "training/state_features.py",
        "len(writer.records), None)",
        "0, None)",
        STATES,
    ),
    Mutant(
        "states.any_cache_will_do",
        "training/state_features.py",
        "cache.info.source_sha256 != digest",
        "False",
        STATES,
    ),
    Mutant(
        "states.splits_not_told_apart",
        "training/state_features.py",
        "[shards_sha256(folders), split]",
        "[shards_sha256(folders)]",
        STATES,
    ),
    Mutant(
        "unet.even_kernels",
        "models/unet.py",
        "size < 1 or size % 2 == 0",
        "size < 1",
        UNET,
    ),
    Mutant(
        "states.unseen_values_at_rest",
        "training/state_features.py",
        "codec.state_mean.numpy()[~known.seen]",
        "0.0",
        STATES,
    ),
    Mutant(
        "rig_codec.shape_is_not_seen",
        "models/rig_codec.py",
        "slots[slot, 0, token] = 1",
        "slots[slot, 0, token] = 0",
        STATES,
    ),
    Mutant(
        "batch.unseen_values_count",
        "data/batch.py",
        "weights if seen is None else weights * seen[:, None]",
        "weights",
        STATES,
    ),
    # Steps from frame to frame.
    Mutant(
        "steps.past_does_not_count",
        "diffusion/loss.py",
        "steps = torch.cat([first, error.diff(dim=1)], dim=1)",
        "steps = torch.cat([0 * first, error.diff(dim=1)], dim=1)",
        LOSS,
    ),
    Mutant(
        "steps.past_counts_where_it_is_not_known",
        "diffusion/loss.py",
        "first = error[:, :1] * past_is_known.float().reshape(-1, *[1] * (error.ndim - 1))",
        "first = error[:, :1]",
        LOSS,
    ),
    Mutant(
        "steps.of_all_values_alike",
        "diffusion/loss.py",
        "0.5 / step_variance.clamp(min=MIN_STEP_VARIANCE)",
        "0.5",
        LOSS,
    ),
    # Fitting face states.
    Mutant(
        "fit.says_that_it_sees_the_tongue",
        "rig/fit.py",
        'UNSEEN = ("tongue_tip", "tongue", "breath")',
        'UNSEEN = ("breath",)',
        FIT,
    ),
    Mutant(
        "fit.long_gaps_are_bridged",
        "rig/fit.py",
        "if last - first - 1 <= MAX_GAP_FRAMES:",
        "if last > first:",
        FIT,
    ),
    Mutant(
        "fit.holds_on_and_never_lets_go",
        "rig/fit.py",
        "return relative**2 * loosened * np.ones_like(change)",
        "return 20 * relative**2 * np.ones_like(change)",
        FIT,
    ),
    Mutant(
        "fit.slid_patches_count",
        "rig/fit.py",
        "return information / (1 + (spreads / DOUBTED_SPREADS) ** 2)[:, None, None]",
        "return information",
        FIT,
    ),
    # The portrait's own state.
    Mutant(
        "own.state_is_absolute_no_more",
        "rig/own.py",
        "return self.shape.express(self._inside(state)).since(self.own_expression)",
        "return self.shape.express(self._inside(state))",
        OWN,
    ),
    # Another audio encoder.
    Mutant(
        "new_hearing.the_mean_is_forgotten",
        "training/new_hearing.py",
        "return weight, mean_out - mean_in @ weight",
        "return weight, mean_out",
        NEW_HEARING,
    ),
    Mutant(
        "new_hearing.only_the_first_layer_is_taken_over",
        "training/new_hearing.py",
        "new.load_state_dict(kept | first)",
        "new.load_state_dict(own | first)",
        NEW_HEARING,
    ),
    # Hearing people.
    Mutant(
        "conformer.attention_hears_everything",
        "models/conformer.py",
        "is_near &= (seen_position < steps)[:, None, :]",
        "is_near |= (seen_position < steps)[:, None, :]",
        CONFORMER,
    ),
    Mutant(
        "conformer.the_padding_is_heard",
        "models/conformer.py",
        "is_near &= (seen_position < steps)[:, None, :]",
        "pass",
        CONFORMER,
    ),
    Mutant(
        "conformer.feed_forward_counts_whole",
        "models/conformer.py",
        "x = x + 0.5 * self.feed_forward1(x)",
        "x = x + self.feed_forward1(x)",
        HAMA,
    ),
    Mutant(
        "conformer.spectrum_starts_late",
        "models/conformer.py",
        "F.pad(waveform.float(), (MARGIN, 0))",
        "F.pad(waveform.float(), (MARGIN - 160, 160))",
        CONFORMER,
    ),
    Mutant(
        "audio_encoder.chunks_have_the_context_of_wav2vec",
        "models/audio_encoder.py",
        "if isinstance(self.config.network, ConformerConfig):\n            return",
        "if False:\n            return",
        CONFORMER,
    ),
    Mutant(
        "audio_encoder.silence_counts_in_the_level",
        "models/audio_encoder.py",
        "total + float(power.sum())",
        "total + float(len(power))",
        CONFORMER,
    ),
    Mutant(
        "hama.matrices_are_not_transposed",
        "training/hama.py",
        "].T.contiguous()",
        "]",
        HAMA,
    ),
    Mutant(
        "listening.unknown_visemes_count",
        "training/audio.py",
        "ignore_index=UNKNOWN,",
        "ignore_index=-100,",
        LISTENING,
    ),
    Mutant(
        "listening.unknown_curves_count",
        "training/audio.py",
        'reduction="none") * known',
        'reduction="none")',
        LISTENING,
    ),
    Mutant(
        "listening.every_guess_is_sure",
        "training/audio.py",
        "(chance >= sure_enough)",
        "(chance >= 0)",
        LISTENING,
    ),
    Mutant(
        "listening.known_labels_are_guessed_over",
        "training/audio.py",
        "(visemes[rows] == UNKNOWN) & (chance",
        "(visemes[rows] != -9) & (chance",
        LISTENING,
    ),
    Mutant(
        "listening.background_speaks",
        "training/audio.py",
        "return sound, sound, silence, np.tile(self.rest, (frames, 1))",
        "return sound, sound, silence + 1, np.tile(self.rest, (frames, 1))",
        LISTENING,
    ),
    Mutant(
        "bank.film_is_not_measured_from_closed",
        "recipes/speech_bank.py",
        '(clip.arrays["lip_gap"] - closed) / spread',
        'clip.arrays["lip_gap"] / spread',
        BANK,
    ),
    Mutant(
        "bank.puppets_are_film",
        "recipes/speech_bank.py",
        "if s.record.is_footage and s.mp4",
        "if s.mp4",
        BANK,
    ),
    Mutant(
        "kokoro.sounds_stay_late",
        "puppet/kokoro.py",
        "borders[1:-1] - LATE_S - LATE_PER_TEMPO_S / speed",
        "borders[1:-1]",
        KOKORO,
    ),
    Mutant(
        "spoken.other_splits_speak",
        "puppet/spoken.py",
        "for s in read_speech_folder(folder, split) if s.phonemes",
        "for s in read_speech_folder(folder) if s.phonemes",
        SPOKEN,
    ),
    Mutant(
        "augment.laughter_too_fast",
        "puppet/augment.py",
        "note / rate_hz) * SAMPLE_RATE_HZ",
        "note / (2 * rate_hz)) * SAMPLE_RATE_HZ",
        AUGMENT,
    ),
    Mutant(
        "visemes.r_opens_the_mouth",
        "puppet/visemes.py",
        '"r": Viseme(0.05,',
        '"r": Viseme(0.75,',
        MOTION,
    ),
    Mutant(
        "live.no_look_ahead",
        "inference/live.py",
        "heard_until = start_frame + num_frames + self.look_ahead",
        "heard_until = start_frame + num_frames",
        LIVE,
    ),
    Mutant(
        "live.window_lies_a_frame_late",
        "inference/live.py",
        ".clip(begin, end - 1) - begin",
        ".clip(begin, end - 1) - begin + 1",
        LIVE,
    ),
    Mutant(
        "live.last_clip_is_kept_whole",
        "inference/live.py",
        "kept = num_frames(there / SAMPLE_RATE_HZ) - start",
        "kept = clip_frames - 1",
        LIVE,
    ),
    Mutant(
        "live.nothing_is_forgotten",
        "inference/live.py",
        "self.sound.forget(begin * SAMPLES_PER_FRAME)",
        "pass",
        LIVE,
    ),
    Mutant(
        "live.level_never_fades",
        "inference/live.py",
        "past = fade ** len(power)",
        "past = 1.0",
        LIVE,
    ),
    Mutant(
        "live.frames_wait_for_the_next_clip",
        "inference/pipeline.py",
        "        yield latents[:0]\n",
        "        pass\n",
        LIVE,
    ),
    Mutant(
        "live.fast_source_is_not_held_back",
        "media/live_sound.py",
        "lambda: self._is_closed or self._num_samples < self._num_used + self._max_ahead",
        "lambda: True",
        LIVE_SOUND,
    ),
    Mutant(
        "live.sound_and_picture_are_apart",
        "media/video.py",
        "+empty_moov+default_base_moof+delay_moov",
        "+empty_moov+default_base_moof",
        STREAM,
    ),
    Mutant(
        "sound.reading_ends_at_the_first_bad_packet",
        "media/sound_file.py",
        "                    self._clock.note_failure(packet)\n                continue\n",
        "                    self._clock.note_failure(packet)\n                return\n",
        SOUND_FILES,
    ),
    Mutant(
        "sound.gaps_are_closed",
        "media/sound_file.py",
        "round(loss.lost_s * self.rate_hz) if loss else 0",
        "0",
        SOUND_FILES,
    ),
    Mutant(
        "sound.a_lost_frame_is_taken_for_trembling",
        "media/sound_clock.py",
        "or is_whole and step_s > frame_s / 2 or",
        "or",
        SOUND_FILES,
    ),
    Mutant(
        "sound.a_slow_clock_is_taken_for_lost_frames",
        "media/sound_clock.py",
        "is_whole and step_s > frame_s / 2",
        "is_whole",
        SOUND_FILES,
    ),
    Mutant(
        "sound.damage_is_counted_in_packets",
        "media/sound_clock.py",
        'COUNTED_FORMATS = ("mp3", "ac3", "eac3")',
        "COUNTED_FORMATS = ()",
        SOUND_FILES,
    ),
    Mutant(
        "sound.a_late_track_counts_as_cut_off",
        "media/sound_headers.py",
        "end_s - start_s",
        "end_s",
        FRAME_TIME,
    ),
    Mutant(
        "sound.chained_files_end_with_the_first",
        "media/sound_file.py",
        "        if len(links) < 2:\n",
        "        if True:\n",
        SOUND_FILES,
    ),
    Mutant(
        "sound.what_is_no_number_is_kept",
        "media/sound_file.py",
        "np.where(is_number, samples, np.float32(0))",
        "samples",
        SOUND_FILES,
    ),
    Mutant(
        "sound.channels_cancel_unnoticed",
        "media/audio.py",
        "    if powers.cancel:\n",
        "    if False:\n",
        CHANNELS,
    ),
    Mutant(
        "sound.silent_channels_take_loudness",
        "media/channels.py",
        "    sides &= audible & np.array(",
        "    sides &= np.array(",
        CHANNELS,
    ),
    Mutant(
        "sound.the_end_is_rounded_in_the_mp4",
        "media/video.py",
        'options["movie_timescale"] = str(rate_hz)',
        "pass",
        VIDEO,
    ),
    Mutant(
        "prepare.gaps_in_the_sound_are_not_measured",
        "data/prepare_video.py",
        "waveform.num_lost(first, length) / SAMPLE_RATE_HZ",
        "0.0",
        DAMAGED_SOUND,
    ),
    Mutant(
        "live.channels_cancel_unnoticed",
        "media/live_sound.py",
        "powers.loudest if powers.cancel else None",
        "None",
        LIVE_SOUND,
    ),
    Mutant(
        "scene.other_size_is_taken",
        "inference/pipeline.py",
        "elif options.size_px not in (None, scene.layout.square_px):",
        "elif False:",
        SCENE,
    ),
    Mutant(
        "scene.face_is_always_the_largest",
        "inference/scene.py",
        "select_face(found.faces, (found.rgb.shape[1], found.rgb.shape[0]), index)",
        "select_face(found.faces, (found.rgb.shape[1], found.rgb.shape[0]), None)",
        SCENE,
    ),
    Mutant(
        "studio.another_portrait_gets_the_last_rig",
        "apps/generate.py",
        "hashlib.sha256(rgb.tobytes() + repr(chosen).encode())",
        "hashlib.sha256(repr(chosen).encode())",
        (
            "tests/apps/test_python.py::test_another_portrait_gets_its_own_rig",
            "tests/apps/test_python.py::test_the_last_portrait_stays_ready",
        ),
    ),
    Mutant(
        "studio.frames_leave_unmarked",
        "apps/generate.py",
        "yield marker(frame)",
        "yield frame",
        ("tests/apps/test_detect.py",),
    ),
    Mutant(
        "jobs.last_come_first_served",
        "apps/jobs.py",
        "self._waiting.popleft()",
        "self._waiting.pop()",
        JOBS,
    ),
    Mutant(
        "jobs.restart_forgets_what_waited",
        "apps/jobs.py",
        '                self._set(replace(job, status="queued"))\n                self._waiting.append(job.id)',
        '                self._set(replace(job, status="queued"))',
        JOBS,
    ),
    Mutant(
        "jobs.orderly_end_counts_as_a_death",
        "apps/jobs.py",
        "attempts=job.attempts - 1",
        "attempts=job.attempts",
        JOBS,
    ),
    Mutant(
        "jobs.cancel_does_not_end_what_runs",
        "apps/jobs.py",
        "if is_closed or stop:",
        "if is_closed:",
        JOBS,
    ),
    Mutant(
        "service.any_token_will_do",
        "apps/service.py",
        'elif scope["path"] not in OPEN_PATHS and not self._has_token(headers):',
        "elif False:",
        SERVICE,
    ),
    Mutant(
        "service.other_sites_come_in",
        "apps/service.py",
        "if not names <= LOCAL_NAMES:",
        "if False:",
        SERVICE,
    ),
    Mutant(
        "service.bodies_have_no_end",
        "apps/service.py",
        "if self.num_bytes > self.max_bytes:",
        "if False:",
        SERVICE,
    ),
)
