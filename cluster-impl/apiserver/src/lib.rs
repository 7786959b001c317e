//! The API server: a tower service over a Store
