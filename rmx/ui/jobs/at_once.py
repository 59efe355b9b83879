"""How many long jobs of one kind run at the same time, in all and on a public site of one visitor and one address."""

from collections.abc import Iterable
from dataclasses import dataclass

from rmx.engine.fair_queue import RequestOwner
from rmx.errors import Busy


@dataclass(frozen=True, slots=True)
class AtOnce:
    """The limits; 0: none.

    Args:
        one, many: what a job is called, such as "evaluation" and "evaluations".
    """

    one: str
    many: str
    most: int = 0
    per_owner: int = 0
    per_address: int = 0

    def admit(self, who: RequestOwner, running: Iterable[RequestOwner]) -> None:
        """Whether one more may begin beside those of `running`.

        Raises:
            Busy: too many of all, of this visitor, or from this address.
        """
        others = list(running)
        if self.most and len(others) >= self.most:
            raise Busy(f"{self.most} {self.many} are under way. Try again when one of them is over.")
        if self.per_owner and sum(other.owner == who.owner for other in others) >= self.per_owner:
            article = "An" if self.one[0] in "aeiou" else "A"
            raise Busy(f"{article} {self.one} of yours is under way already. Stop it, or wait for its end.")
        near = sum(other.address == who.address for other in others) if who.address is not None else 0
        if self.per_address and near >= self.per_address:
            raise Busy(f"{near} {self.many} from your network are under way. Try again when one of them is over.")
