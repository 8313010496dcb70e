//! Consoles: lines of text to and from who runs the machine.

/// A console. May be called on any CPU; nothing waits for the device.
pub trait Console: Send + Sync {
    /// Writes as many bytes as there is room for, from the first on; gives how many.
    fn write(&self, bytes: &[u8]) -> usize;

    /// Reads what was typed; gives how many bytes.
    fn read(&self, out: &mut [u8]) -> usize;

    /// Asks for an interrupt when there is something to read. `true` if there is already.
    fn arm(&self) -> bool;
}
