"""Sample data: published images, fetched on first use, and synthetic ones, which need no network."""

from micro_sam.lazy import lazy_names

__getattr__, __dir__, __all__ = lazy_names(
    __name__,
    {
        ".synthetic": ("synthetic_data", "KINDS"),
        ".published": (
            "published_samples",
            "fetch_sample",
            "fetch_image_series_example_data",
            "fetch_wholeslide_example_data",
            "fetch_livecell_example_data",
            "fetch_hela_2d_example_data",
            "fetch_3d_example_data",
            "fetch_tracking_example_data",
            "fetch_nucleus_3d_example_data",
            "fetch_wholeslide_histopathology_example_data",
            "sample_data_image_series",
            "sample_data_wholeslide",
            "sample_data_livecell",
            "sample_data_hela_2d",
            "sample_data_3d",
            "sample_data_tracking",
            "sample_data_segmentation",
            "fetch_tracking_segmentation_data",
        ),
        ".timeseries": ("synthetic_timeseries", "Timeseries", "TimeseriesSettings"),
    },
)
