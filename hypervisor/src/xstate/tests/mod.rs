//! Tests of the rules. Their names begin with the rule they would fail for.

mod fpstate;
mod image;
mod layout;
mod life;
pub(crate) mod made_up;
mod permission;
mod swap;
mod world;
mod xcr0;
mod xfd;
