//! The upload of a segment.
