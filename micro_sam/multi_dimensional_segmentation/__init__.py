"""Objects through slices and frames: propagation, volumes from slices, tracking.

Every name is loaded on first use, so that importing this package costs nothing.
"""

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".volume": ("segment_mask_in_volume", "iter_segment_masks_in_volume"),
        ".through_time": ("track_mask_through_time", "iter_track_masks"),
        ".propagation": ("iter_propagate", "propagate", "PropagationStep"),
        ".annotations": ("annotations_of",),
        ".propagation_result": ("PropagationResult", "SliceScore"),
        ".tracking": (
            "track_across_frames",
            "automatic_tracking_implementation",
            "get_napari_track_data",
            "iter_track",
            "iter_automatic_tracking",
            "TrackingSettings",
        ),
        ".linking": ("merge_instance_segmentation_3d", "iter_merge_slices", "LinkSettings"),
        ".automatic": ("automatic_3d_segmentation", "iter_automatic_3d"),
        ".volume_settings": ("VolumeSettings",),
        ".slice_stream": ("SliceOptions",),
        ".projection": ("Projection", "PropagationSettings"),
    },
)
