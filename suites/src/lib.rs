//! The suites as data, and the test mains that run them
