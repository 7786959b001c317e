//! One ordered event loop: runs a plan on a target and records the timeline
