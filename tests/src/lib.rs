//! Host tests across the crates of the project.
