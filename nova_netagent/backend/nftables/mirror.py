"""What our tables hold, remembered and kept right: read again where others changed anything since."""

from collections.abc import Mapping

from nova_netagent.backend import TableChanged
from nova_netagent.backend.nft import Netlink
from nova_netagent.backend.nft.commits import Commits, following
from nova_netagent.backend.nft.objects import Family as NftFamily
from nova_netagent.backend.nft.objects import TableId as NftTable
from nova_netagent.backend.nft.watch import Watch
from nova_netagent.backend.nftables import image
from nova_netagent.backend.nftables.image import Image, Keys
from nova_netagent.backend.nftables.transaction import Held, Transaction
from nova_netagent.netfilter.rule import FAMILIES, Family, TableId

NFT_FAMILIES: dict[Family, NftFamily] = {4: NftFamily.IP, 6: NftFamily.IP6}
ATTEMPTS = 20
"""How often a transaction is sent again, or a table read, when others keep changing theirs."""


class Mirror:
    """What the tables of one name hold in the network namespace that the thread is in. One thread only.

    :param commits: what others of this agent commit in nf_tables, in the same thread.
    """

    def __init__(self, wrap_name: str, commits: Commits) -> None:
        self.generation: int | None = None
        """In which what is held is right; ``None``: it was never read, or is not to be trusted."""
        self.held = Held()
        self.read: set[TableId] = set()
        """The tables of the compiler that were read since, and may be edited."""
        self.open: Transaction | None = None
        self.watch: Watch | None = None
        self._tables = {family: NftTable(nft, wrap_name) for family, nft in NFT_FAMILIES.items()}
        self._commits = commits
        self._netlink: Netlink | None = None
        self._meddled = False
        self._starts_over = False
        self.disturbed = False
        """Whether others came between the last transaction and what it was planned on."""

    def close(self) -> None:
        """Close the sockets; what was remembered is forgotten."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None
        if self.watch is not None:
            self.watch.close()
            self.watch = None
        self.forget()

    @property
    def kernel(self) -> Netlink:
        """Who asks and tells the kernel."""
        if self._netlink is None:
            self._netlink = Netlink()
        return self._netlink

    @property
    def now(self) -> Held:
        """What our tables hold, with what is edited by the transaction that is open."""
        return self.held if self.open is None else self.open.held

    def table(self, family: Family) -> NftTable:
        """Our table of a family."""
        return self._tables[family]

    def begin(self) -> Transaction:
        """Open a transaction."""
        self.open = Transaction(self.held, self._handles)
        return self.open

    def forget(self) -> None:
        """Nothing of what is held is to be trusted."""
        self.generation = None
        self.held = Held(told=self.held.told)
        self.read.clear()

    def doubt(self) -> None:
        """Somebody may have changed our tables, and it is not known what."""
        self._meddled = True
        self.forget()

    def start_over(self) -> None:
        """Take nothing of what stands for given: with the next transaction our tables go, and come anew."""
        self._starts_over = True
        self.forget()

    def refresh(self) -> None:
        """Read again what others changed since; not while a transaction is open, which is refused if they did.

        :raises TableChanged: they keep doing so.
        """
        if self.open is not None:
            return
        generation = self.kernel.generation()
        if generation == self.generation:
            return
        before = self.held.images
        try:
            heard = None if self.generation is None else self.heard(generation)
            if heard is not None and not heard[1]:
                self.generation = heard[0]  # what was changed is not ours
                return
            self.read.clear()
            self.generation, images = self._read_all() if heard is None else heard
        except BaseException:
            if before:
                self.doubt()  # what was heard by now is not told again
            raise
        if self._starts_over:
            images = {family: Image(known.table, goes=known.exists) for family, known in images.items()}
            self._starts_over = False
        self.held = Held(images, told=self.held.told)
        self._meddled |= any(images[family].differs(known) for family, known in before.items())

    def meddled(self) -> bool:
        """Whether it turned out that others changed our tables, since this was asked last."""
        meddled, self._meddled = self._meddled, False
        return meddled

    def heard(self, generation: int) -> tuple[int, Mapping[Family, Image]] | None:
        """The images as they are now, by what was heard of others' changes; empty when none was of ours.

        ``None`` when something went unheard.
        """
        found = self._followed(self.held.images, generation)
        if found is None:
            return None
        generation, images = found
        return generation, {} if images is self.held.images else images

    def _followed(self, images: Mapping[Family, Image], generation: int) -> tuple[int, Mapping[Family, Image]] | None:
        """These images as they are now, by what was heard; they themselves where nothing was of ours.

        ``None`` when something went unheard.
        """
        for _ in range(ATTEMPTS):
            changes = None if self.watch is None else self.watch.changes(generation, list(self._tables.values()))
            if changes is None:
                return None
            again = {
                family: image.read_again(self.kernel, known, changes[known.table])
                for family, known in images.items()
                if known.table in changes
            }
            images = {**images, **again} if again else images
            now, generation = generation, self.kernel.generation()
            if now == generation:
                return generation, images
        raise TableChanged("the ruleset keeps changing while it is read")

    def committed(self) -> None:
        """The kernel took a transaction of ours on our generation and no other: the next one is ours."""
        assert self.generation is not None
        self._commits.note(self.generation, list(self._tables.values()))
        self.generation = following(self.generation)

    def _read_all(self) -> tuple[int, Mapping[Family, Image]]:
        """Both tables. What others change meanwhile is heard: only what is ours is read once more.

        :raises TableChanged: too much of it is.
        """
        if self.watch is None:
            self.watch = Watch()
        else:
            self.watch.join()
        before = self.kernel.generation()
        images = {family: image.read(self.kernel, self.table(family)) for family in FAMILIES}
        now = self.kernel.generation()
        found = (now, images) if now == before else self._followed(images, now)
        if found is None:
            raise TableChanged("the ruleset keeps changing while it is read")
        return found

    def _handles(self, family: Family, physical: str, rules: Keys) -> tuple[int, ...]:
        """The handles of a chain's rules."""
        found = self.kernel.handles(self.table(family), physical)
        if len(found) != len(rules):
            raise TableChanged(f"the chain {physical} was changed by another program")
        return found
