//! The orchestrator under virtual time in one process
