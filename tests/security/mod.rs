//! Security towards all services: the right credentials work, each wrong one is refused in words that say which, and no secret is told.

mod closed;
mod refused;
mod rights;
mod rotated;
mod secrets;
mod settings;
mod sink;
