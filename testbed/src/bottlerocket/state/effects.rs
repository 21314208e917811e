//! How a command ends: what it leaves on the disk and in the status.

use chrono::{DateTime, TimeDelta, Utc};

use super::{Machine, Running};
use crate::bottlerocket::wire::{CommandResult, Partition};
use crate::bottlerocket::{CallFault, Command, CommandStatus, Image, UpdateState};
use crate::truth::SimEventKind;

impl Machine {
    pub(super) fn finish(&mut self, running: Running) {
        let Running {
            command,
            due,
            fault,
            offered,
            newest,
            target,
            ignored_waves,
        } = running;
        let crashed = fault == Some(CallFault::Crashes);
        let succeeded = match (command, fault) {
            (_, Some(CallFault::Crashes | CallFault::Fails)) => false,
            (Command::Activate, _) => self.inactive.is_some(),
            _ => true,
        };
        let outcome = if succeeded {
            CommandStatus::Success
        } else {
            CommandStatus::Failed
        };
        self.events.push((
            due,
            SimEventKind::CommandEnded {
                command,
                outcome: (!crashed).then_some(outcome),
            },
        ));
        if succeeded && command == Command::Refresh {
            let offered = offered.iter().map(ToString::to_string).collect();
            let Image { variant, arch, .. } = self.running_image.clone();
            self.events.push((
                due,
                SimEventKind::Refreshed {
                    offered,
                    ignored_waves,
                    variant,
                    arch,
                },
            ));
        }
        if succeeded {
            let written = target.filter(|_| fault != Some(CallFault::WritesNothing));
            self.take_effect(due, command, written);
        }
        if crashed {
            return;
        }
        let image = self.reported_image();
        // The updater read the settings that matter to it when it started; this is read when it has ended.
        let chosen = self.choose(&offered, newest);
        let Some(status) = &mut self.status else {
            return;
        };
        // An agent tells a new result from an old one by its time alone.
        let earlier = status
            .most_recent_command
            .as_ref()
            .map(|earlier| earlier.timestamp + TimeDelta::microseconds(1));
        status.most_recent_command = Some(CommandResult {
            cmd_type: command,
            cmd_status: outcome,
            timestamp: earlier.map_or(due, |earlier| earlier.max(due)),
            exit_status: Some(i32::from(!succeeded)),
            stderr: Some(if succeeded {
                String::new()
            } else {
                format!("{command:?} failed")
            }),
        });
        if let Some(active) = &mut status.active_partition {
            *active = Partition {
                image,
                next_to_boot: !self.inactive_boots_next,
            };
        }
        match command {
            Command::Refresh => {
                if succeeded {
                    status.chosen_update = chosen;
                    status.available_updates = offered;
                }
                if matches!(status.update_state, UpdateState::Idle | UpdateState::Available) {
                    let chosen = succeeded && status.chosen_update.is_some();
                    status.update_state = if chosen {
                        UpdateState::Available
                    } else {
                        UpdateState::Idle
                    };
                }
            }
            _ if !succeeded => {}
            Command::Prepare => {
                let chosen = status.chosen_update.clone();
                status.staging_partition = chosen.map(|image| Partition {
                    image,
                    next_to_boot: false,
                });
                status.update_state = UpdateState::Staged;
            }
            Command::Activate | Command::Deactivate => {
                let ready = command == Command::Activate;
                if let Some(staged) = &mut status.staging_partition {
                    staged.next_to_boot = ready;
                }
                status.update_state = if ready {
                    UpdateState::Ready
                } else {
                    UpdateState::Staged
                };
            }
        }
    }

    /// What a command that succeeded does to the disk.
    fn take_effect(&mut self, at: DateTime<Utc>, command: Command, written: Option<Image>) {
        match command {
            Command::Refresh => {}
            Command::Prepare => {
                if let Some(image) = written {
                    self.events.push((
                        at,
                        SimEventKind::Written {
                            version: image.version.to_string(),
                        },
                    ));
                    self.inactive = Some(image);
                }
            }
            Command::Activate => {
                self.inactive_boots_next = true;
                let version = self
                    .inactive
                    .as_ref()
                    .map(|image| image.version.to_string())
                    .unwrap_or_default();
                self.events.push((at, SimEventKind::Activated { version }));
            }
            Command::Deactivate => {
                self.inactive_boots_next = false;
                self.events.push((at, SimEventKind::Deactivated));
            }
        }
    }
}
