//! STUB
/// stub
pub struct GrantTable;
