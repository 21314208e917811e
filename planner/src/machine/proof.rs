//! What proves a reboot: the agent's word and the kubelet's, where they agree.

use super::Granted;
use crate::{running::contradicts, world::ShadowFacts};

/// What a node has booted, by its agent and its kubelet.
pub(super) enum Booted {
    /// The target: both say so, or the kubelet says nothing else.
    Target,
    /// Something else, and what.
    Other(String),
}

impl Granted<'_> {
    /// What the node has booted after the boot `earlier`. None: nothing is proven, since agent and kubelet do not speak of the
    /// same boot, or it is still that one.
    pub(super) fn booted(&self, shadow: &ShadowFacts, earlier: &str) -> Option<Booted> {
        let status = shadow.status.as_ref()?;
        let boot = status.boot_id.as_deref()?;
        if boot != self.node.boot_id || boot == earlier {
            return None;
        }
        let (runs, wanted, os_image) = (&status.current_version, &self.grant.to, &self.node.os_image);
        Some(if runs != wanted {
            Booted::Other(format!("rebooted, but runs {runs} instead of {wanted}"))
        } else if contradicts(os_image, wanted) {
            Booted::Other(format!(
                "reports that it rebooted into {runs}, but its kubelet reports {os_image}"
            ))
        } else {
            Booted::Target
        })
    }

    /// What is seen of a node that should be back by now.
    pub(super) fn whereabouts(&self, permitted_boot: &str) -> String {
        let status = self
            .node
            .shadow
            .as_ref()
            .and_then(|shadow| shadow.status.as_ref());
        let reported = status.and_then(|status| status.boot_id.as_deref());
        if !self.node.ready {
            "the node is not Ready".to_owned()
        } else if self.node.boot_id == permitted_boot {
            "the node is Ready and has not rebooted".to_owned()
        } else if reported != Some(&self.node.boot_id) {
            let os_image = &self.node.os_image;
            format!("the node is Ready with {os_image}, but its agent has not reported from this boot")
        } else {
            "the node is Ready".to_owned()
        }
    }
}
