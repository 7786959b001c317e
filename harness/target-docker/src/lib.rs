//! The orchestrator in containers
