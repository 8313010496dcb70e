//! Blanket drivers: what Overcast drives on each first layer.
#![no_std]
