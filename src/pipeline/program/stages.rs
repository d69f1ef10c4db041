//! Decides which steps run concurrently.

use super::{Action, Place, Source, Stage, Step};

/// Groups neighbouring look-ups that do not need one another, and neighbouring writes. A custom step is alone in its stage, because its effects
/// are unknown and a look-up before it may end the record.
pub(super) fn stages(steps: &[Step]) -> Vec<Stage> {
    let mut stages: Vec<Stage> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let together = match &step.action {
            Action::Filter(_) | Action::Set { .. } => {
                stages.push(Stage::Alone(index));
                continue;
            }
            Action::Lookup(_) | Action::Reference(_) | Action::Write(_) | Action::Custom(_) => {
                stages.last_mut().and_then(|stage| match stage {
                    Stage::Together(members) => {
                        let same_kind = members.iter().all(|m| same_kind(&steps[*m].action, &step.action));
                        let needs = members.iter().any(|m| needs(step, *m));
                        (same_kind && !needs).then_some(members)
                    }
                    Stage::Alone(_) => None,
                })
            }
        };
        match together {
            Some(members) => members.push(index),
            None => stages.push(Stage::Together(vec![index])),
        }
    }
    stages
}

fn same_kind(a: &Action, b: &Action) -> bool {
    matches!(
        (a, b),
        (
            Action::Lookup(_) | Action::Reference(_),
            Action::Lookup(_) | Action::Reference(_)
        ) | (Action::Write(_), Action::Write(_))
    )
}

fn needs(step: &Step, other: usize) -> bool {
    let binds: &[Place] = match &step.action {
        Action::Lookup(l) => &l.binds,
        Action::Reference(r) => std::slice::from_ref(&r.key),
        Action::Write(w) => &w.binds,
        Action::Custom(c) => &c.binds,
        Action::Filter(_) | Action::Set { .. } => &[],
    };
    binds
        .iter()
        .chain(&step.when)
        .any(|place| source_needs(&place.source, other))
}

fn source_needs(source: &Source, step: usize) -> bool {
    match source {
        Source::Column { step: s, .. } | Source::Rows { step: s } => *s == step,
        Source::Computed(c) => c.inputs.iter().any(|i| source_needs(i, step)),
        Source::Event(_) | Source::Record(_) | Source::Named(_) | Source::Constant(_) | Source::Now(_) => false,
    }
}
