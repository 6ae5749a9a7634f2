//! The only code here that knows what kernel memory looks like.

pub mod oom;
pub mod preempt;
pub mod printk;
pub mod task;
