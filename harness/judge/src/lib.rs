//! Pure judgement of a plan and a timeline
