//! Boots real first layers in QEMU, drives them and asserts.
