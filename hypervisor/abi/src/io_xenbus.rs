//! States of a split driver (io/xenbus.h).
