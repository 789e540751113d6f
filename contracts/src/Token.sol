// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";

/// @title Token
/// @notice The token that is staked, paid and burned. The whole supply is minted once, so the constructor's amount is
/// the cap: nobody can mint, and slashing only ever lowers the supply.
contract Token is ERC20, ERC20Burnable, ERC20Permit {
    /// @param recipient receives the whole supply.
    /// @param supply amount of the smallest unit (18 decimals).
    constructor(address recipient, uint256 supply) ERC20("Murmur", "MUR") ERC20Permit("Murmur") {
        _mint(recipient, supply);
    }
}
