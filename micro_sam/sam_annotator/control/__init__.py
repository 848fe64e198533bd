"""What a controller does, by subject; `micro_sam.sam_annotator.controller` puts it together."""
