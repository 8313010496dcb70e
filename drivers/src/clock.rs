//! Clocks of first layers: what they say about time beyond what the CPU does.

/// A first layer's clock.
pub trait Clock: Send + Sync {
    /// What it is called, for the log.
    fn name(&self) -> &'static str;

    /// The rate of the CPUs' time stamp counter in Hz, if the clock knows it.
    fn tsc_hz(&self) -> Option<u64>;

    /// Nanoseconds since the machine's start, as the first layer counts them: they go on at
    /// the same rate on all CPUs, and after the machine was moved or suspended.
    fn monotonic(&self) -> Option<u64>;

    /// Nanoseconds since 1970-01-01 00:00:00 UTC.
    fn wall(&self) -> Option<u64>;
}
