"""Images in, labels and pictures out."""

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".images": ("ImageFile", "open_image", "load_image_data"),
        ".resolution": ("Resolution",),
        ".labels": ("write_labels", "check_labels_path"),
        ".overlay": ("draw_overlay", "write_overlay"),
        ".tracks": ("write_tracks",),
        ".tracks_reading": ("read_tracks",),
        ".tracks_ctc": ("write_ctc", "read_ctc"),
        ".tracks_geff": ("write_geff", "read_geff", "TrackGraph"),
        ".paths": ("expand_inputs", "unique_names", "replacing"),
    },
)
