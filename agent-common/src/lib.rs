//! skeleton

#![no_std]
