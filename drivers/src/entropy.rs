//! Sources of random numbers.

/// A source of random numbers that were not computed. May be called on any CPU; does not wait.
pub trait Entropy: Send + Sync {
    /// Fills the begin of a buffer with what there is, and gives how much that was; asks the
    /// device for more. 0 if there is nothing now: try again later.
    fn fill(&self, out: &mut [u8]) -> usize;
}
