//! Security of the connections to all services: the right credentials work, each wrong one is refused with a message that says which,
//! and no secret is shown.

mod closed;
mod refused;
mod rights;
mod rotated;
mod secrets;
mod settings;
mod sink;
