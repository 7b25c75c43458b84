//! Places the parties of a job and brings them together. Holds no key and opens nothing: the data's shares pass through
//! as bytes that it does not look into.
//!
//! For one job on one machine [`rendezvous`] decides (no I/O, the caller supplies time), [`processes`] starts local
//! processes and performs the decisions, and [`control`] frames messages.
//!
//! For many jobs on many hosts [`schedule`] decides and [`store`] keeps its records. Nothing performs these decisions yet:
//! the server and the hosts' agents are to come.

pub mod control;
pub mod processes;
pub mod rendezvous;
pub mod schedule;
pub mod store;

pub use processes::{LocalJob, Notice, run};
pub use rendezvous::{Deadlines, Ending, JobFailure, Outcome, State};
