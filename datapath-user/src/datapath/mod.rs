//! The kernel: programs, maps, links. The only place with aya and unsafe.
