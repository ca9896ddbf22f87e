//! Tests of the rules. Their names begin with the rule they would fail for.

mod fpstate;
mod layout;
mod life;
pub(crate) mod made_up;
mod permission;
mod swap;
mod xcr0;
mod xfd;
